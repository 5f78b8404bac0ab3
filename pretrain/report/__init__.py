"""One self-contained page about a demo or a run, written while it goes on.

    run folders, evaluation, datasets -> sections -> page -> report.html

- `page`      puts sections together; `write_report(roots)`
- `swap`      one question, two pictures and a blank; the test behind it
- `said`      answers over time, held-out pictures with the worst mistakes first
- `facts`     what went in and how it went: data, packing, curves, freeze table
- `spent`     where the time of each run went
- `origin`    states, failures, the resumed segment, configuration, versions
- `folder`    what a folder holds so far
- `markup`    pieces of HTML
- `plots`     inline SVG
- `pictures`  thumbnails as data URIs
- `live`      refreshes the page in the background
- `assets/`   style and script, inlined
"""
