"""All rules of a recipe, asked in order of what they cost: before a picture is fetched, before it is decoded, after.

Every rule is a pure question: the same row gets the same reason, on any node and after any interruption.
"""

from configs.ingest import FiltersConfig, TextConfig
from data_pipeline.ingest.filters.blocklists import Domains, Hashes, Words
from data_pipeline.ingest.filters.expression import Expression
from data_pipeline.ingest.filters.predicates import Predicate
from data_pipeline.ingest.filters.text import TextRules, contents_of
from data_pipeline.ingest.record import Record
from data_pipeline.sample import Reject, Sample


class Filters:
    """The rules of one recipe. Reading long lists takes seconds: keep it for a worker's whole life. It may be pickled.

    `columns` are the source's columns that `where` asks for. `lists` is the SHA-256 of each list file by its setting:
    part of a build's identity.

    Raises:
        UserError: an expression that is none, a list that cannot be read, a function that is not there.
    """

    def __init__(self, filters: FiltersConfig, text: TextConfig):
        self.config, self.text = filters, TextRules(text)
        self.where = None if filters.where is None else Expression(filters.where, "filters.where")
        self.columns = self.where.names if self.where else frozenset[str]()
        self.domains = None if filters.domains is None else Domains(filters.domains, "filters.domains")
        self.hashes = None if filters.hashes is None else Hashes(filters.hashes, "filters.hashes")
        self.words = None if filters.words is None else Words(filters.words, "filters.words")
        self.predicates = [Predicate(name) for name in filters.predicates]
        lists = {"domains": self.domains, "hashes": self.hashes, "words": self.words}
        self.lists = {name: held.digest for name, held in lists.items() if held is not None}

    def before_fetch(self, record: Record) -> Reject | None:
        """Rules on what the source says. `record.problem` is the caller's."""
        problem = self.text.problem(record)
        if problem:
            return problem
        if self.where and (why := self.where.problem(record.columns)):
            return Reject("filter", "expression", why)
        if self.domains:
            for ref in record.images:
                if host := self.domains.found(ref.path):
                    return Reject("filter", "domain", host)
        if self.words:
            for content in contents_of(record):
                if place := self.words.found(content):
                    return Reject("filter", "word", place)
        return None

    def before_decode(self, sha256: bytes, width: int, height: int) -> Reject | None:
        """Rules on the source's bytes (their digest, 32 bytes) and the picture's upright size in pixels."""
        config, size = self.config, f"{width}x{height}"
        short, long = sorted((width, height))
        if self.hashes is not None and sha256 in self.hashes:
            return Reject("filter", "hash", sha256.hex())
        if short < config.min_side or width * height < config.min_area:
            return Reject("filter", "too_small", size)
        if config.max_area is not None and width * height > config.max_area:
            return Reject("filter", "too_large", size)
        if config.max_aspect is not None and long > config.max_aspect * short:
            return Reject("filter", "aspect", size)
        return None

    def on_sample(self, sample: Sample) -> Reject | None:
        """The user's predicates, in their order."""
        for predicate in self.predicates:
            if problem := predicate.problem(sample):
                return problem
        return None
