"""Where bytes are: a class per kind of place, each with the methods of `Store`. `storage.py` picks the one of a path.

```
storage --path--> LocalStore | S3Store | OtherStore(fsspec)
                                   |
                     client --> patience --> s3_errors (what to say, what to try again)
```

store.py      Stat, and what every place can do
local.py      this machine's files: temp file, fsync, rename or link
s3.py         S3: reads in blocks, puts that are whole or not there, listings page by page
upload.py     one file into S3: a single put, or parts a few at a time
client.py     the connection of this process to an S3 server
s3_errors.py  what an error of S3 means, and the sentence for it
patience.py   trying again what may pass, for so long
reader.py     an object as a file: blocks ahead of the reader, bounded memory
other.py      everything else that fsspec knows
globbing.py   `*`, `?`, `[]`, `**`, braces: which files a pattern names
"""
