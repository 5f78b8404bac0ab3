"""One self-contained page about a demo or a run, written while it goes on.

    run folders, evaluation, datasets -> sections -> page -> report.html

- `page`      puts sections together; `write_report(roots)`
- `sections`  what the model says: swap, answers over time, mistakes
- `facts`     what went in and how it went: data, packing, curves, freeze table, configuration
- `plots`     inline SVG
- `pictures`  thumbnails as data URIs, each once
- `live`      refreshes the page in the background
- `assets/`   style and script, inlined
"""
