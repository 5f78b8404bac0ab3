"""Questions of a dataset, each on its own: one picture, one question, a fresh conversation.

Earlier turns of a conversation give answers away (88.8 % of easy-VQA can be answered blind with them), so a test never
shows them.
"""

from dataclasses import dataclass

from data_pipeline.sample import IMAGE_MARK, Message
from data_pipeline.stream.read.dataset import Dataset

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


@dataclass(frozen=True)
class Question:
    """One question about one picture: picture `picture` of sample `sample`. `id` is its place in the published file."""

    id: int
    text: str
    truth: str
    sample: int
    picture: int
    image_id: int

    @property
    def type(self) -> str:
        return answer_type(self.truth)

    @property
    def messages(self) -> list[Message]:
        return [Message("user", IMAGE_MARK + self.text)]


def answer_type(truth: str) -> str:
    """yes_no, shape, colour (easy-VQA's three), or other."""
    word = truth.strip().lower()
    if word in ("yes", "no"):
        return "yes_no"
    return "shape" if word in SHAPES else "colour" if word in COLOURS else "other"


def questions_of(dataset: Dataset) -> list[Question]:
    """All questions of a dataset in order of id. A question belongs to the last picture shown before it.

    Left out: questions before any picture, and turns that show several pictures at once (to ask about one of them
    would be another question). Ids come from the samples' provenance (`question_ids`, `image_ids`); where there is
    none they count up.
    """
    out: list[Question] = []
    count = 0
    for sample in range(len(dataset)):
        talk = dataset.read(sample).conversation
        known = [number for group in talk.provenance.get("question_ids", []) for number in group]
        images = talk.provenance.get("image_ids", [])
        picture = -1
        messages = talk.messages or ()
        for asked, (user, assistant) in enumerate(zip(messages[::2], messages[1::2], strict=False)):
            shown = user.content.count(IMAGE_MARK)
            picture += shown
            number = known[asked] if asked < len(known) else count
            count += 1
            if picture < 0 or shown > 1:
                continue
            # Without published ids, pictures are numbered so that two of one sample stay apart.
            image = images[picture] if picture < len(images) else sample * 1000 + picture
            text = user.content.replace(IMAGE_MARK, "").strip()
            out.append(Question(number, text, assistant.content, sample, picture, image))
    return sorted(out, key=lambda question: question.id)
