"""Bytes of pictures, from wherever a record says they are; what strangers' servers do costs no more than a row.

```
(key, ImageRef) --> fetcher ----- local file -------------------------------> (key, bytes | FetchFailure)
                       |                                                          ^
                       +--> engine (one thread) --> schedule --> client ----------+
                                                       |           |  guard, robots, opt-out, caps, deadline, retries
                                                       +--> stored (object stores)
```

fetcher.py        the caller's side: references in, results out as they complete
engine.py         the background thread: event loop, pool, budget
schedule.py       what runs when: limits per host and in all, nothing while the caller is behind
client.py         one picture over HTTP: redirects, statuses, retries, one deadline
address.py        a URL as data has it -> the one that is asked for
guard.py          which addresses may be connected to, checked at the socket
pool.py           connections kept alive, one TLS context
robots.py         robots.txt by RFC 9309
robots_cache.py   ... of each origin, asked for once
optout.py         X-Robots-Tag
body.py           a body, capped as it travels and unpacked
budget.py         bytes of large pictures in memory at once
stored.py         local files and object stores
threads.py        daemon threads for calls that block
failure.py        the reasons
network_error.py  exceptions -> reasons
"""
