"""What is not wanted: each rule is a pure question with a stable reason, asked as early as its facts are known.

```
Record --before_fetch--> (fetch) --before_decode--> (decode) --on_sample--> Scorers.score --> kept
          text, expression,           hash,                     user's          user's models,
          domains, words              size                      predicates      a pool of Ray actors
```

rules.py         Filters: all rules of a recipe in the order above
text.py          rules on text in any language, and how text is cut into words
expression.py    `similarity > 0.3 and nsfw != 'NSFW'`: read by an own allow-list, never run as Python
values.py        a row's values: null, text that means a number, comparing
blocklists.py    files of domains, SHA-256 and words
predicates.py    the user's own functions, named module:function
scorers.py       the user's models: batches and verdicts
scorer_model.py  one instance of a model, its failures as data
scorer_pool.py   the Ray actors that hold instances
"""
