"""Remote parts of recipes (models, tokenizers, weights): one content-addressed cache, and what fills it.

```
name --name.py--> Hub | Url | Package --listing--> files with sizes and checksums --download.py--> blobs, links
                                   \\--cache.py: on a job, a folder or file that is there, never a connection
```

name.py      how a remote part is written: ORG/NAME[@REVISION][:FILE], http(s)://..., package:NAME
cache.py     where parts lie, by sha256; finding one without a network
hub.py       what files a part on a hub has
wheel.py     a package's wheel, through pip
download.py  one file over HTTP: resumed, checked, put in its place
fetching.py  all parts of a command: what is lacking, room, progress, deadline
recipe.py    the remote parts that a recipe names
"""
