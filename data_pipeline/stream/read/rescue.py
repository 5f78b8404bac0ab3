"""Members of a damaged tar that lie elsewhere than the index says: bytes were cut out or put in before them.

One pass over the tar finds every header, at any offset. A member that still has its hash is delivered from where it lies
now, so that damage costs the samples that it hit and no others.
"""

from data_pipeline.stream.read.members import Place
from data_pipeline.tar_scan import Read, headers


class Found:
    """Where the members of a tar really are."""

    def __init__(self, read: Read):
        self.places: dict[str, list[tuple[int, int]]] = {}
        for name, offset, size in headers(read):
            folder, slash, base = name.rpartition("/")
            self.places.setdefault(f"{folder}{slash}{base.split('.', 1)[0]}", []).append((offset, size))

    def place(self, place: Place) -> Place | None:
        """The sample with its members' real offsets: those of its key, of the indexed sizes, in the indexed order.

        None where they are not all there, or where the index says.
        """
        there = list(self.places.get(place.key, ()))
        members = []
        for _, size, hashed in place.members:
            match = next((k for k, found in enumerate(there) if found[1] == size), None)
            if match is None:
                return None
            members.append((there[match][0], size, hashed))
            del there[match]
        moved = tuple(members)
        return place._replace(members=moved) if moved != place.members else None
