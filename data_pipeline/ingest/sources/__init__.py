"""Sources: anything that has pictures and texts -> records, any run of them on demand, in memory of a row group.

```
recipe --find_inputs--> Found (a file) --list_input--> Input (rows, identity) --read_records--> Record --> pictures
                                            |                    ^
             csv, json, folder, tar, ... rows spooled        parquet, Arrow: in place (read_cell for bytes)
```

What a person gives (paths, columns) is refused with a sentence; what is wrong with a row is kept as its problem; what
data names (URLs, paths, members, keys) is never trusted: see record_images.py and tar_members.py.

inputs.py        find_inputs, list_input, describe: the planner's door
reading.py       read_records, read_cell: the worker's door
listing.py       all records of a small source
found.py         Found and Input
finding.py       paths, globs, save_to_disk folders and hf:// datasets -> files and their kinds
columns.py       which column is what, or the sentence that names those that there are
rows.py          one row, line or sidecar -> record
record_images.py image values out of data -> references, or why they are not read
tables.py        parquet and Arrow files as records, read in place
cells.py         columns of batches -> values of rows, and the bytes of a cell
windows.py       rows of a file on demand; what was read last is kept
stored.py        parquet and Arrow files as record batches, local and remote
spool.py         records as a parquet file, and their identity
text_tables.py   csv, tsv, json, jsonl -> records
lines.py         csv, tsv, json, jsonl, gzipped too -> rows, one in memory
json_stream.py   a JSON file of any length, value by value
folder.py        pictures with sidecars
clips.py         frames out of a folder of them, evenly chosen
tars.py          foreign WebDataset tars: members grouped into records
tar_members.py   a tar read once, from anywhere, nothing extracted: names and byte ranges
coco.py          COCO captions, joined on disk
easy_vqa.py      the easy-VQA wheel
"""
