"""Both extraction steps without a language model (`--no-llm`): fixed rules, the same answer every time.

Step A: the text inside `<answer>`, else what follows "emotional state is", else the last list in brackets, cut at
commas, semicolons and "and". Step B: the sign of a small lexicon's sum over the labels. Scores made this way are
marked: against the official language model they move by a point or so, and polarity agrees in about 95 % of
replies (specification of MER-UniBench, sections 2.1 and 6).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from omniopsd.bench.lists import normal_labels

ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
STATE = re.compile(r"emotional states?\s+(?:is|are|includes?)\b:?(.*)", re.DOTALL | re.IGNORECASE)
BRACKETS = re.compile(r"\[([^\[\]]*)\]")
CUTS = re.compile(r"[,;]|\band\b", re.IGNORECASE)
TRIM = " \t\r\n.!:\"'`*[]()"

POSITIVE_WORDS = """
admiration admiring affection affectionate amazed amused amusement appreciation appreciative approval
approving attracted calm caring cheerful comfortable compassion compassionate confident content contented
curious delight delighted eager ecstatic elated encouraged encouraging energetic enjoyment enthusiasm
enthusiastic excited excitement friendly glad grateful gratitude happiness happy helpful hope hopeful
humorous impressed inspired interest interested joy joyful kind laughing like love loving moved optimistic
passionate peaceful playful pleasant pleased pleasure positive praise proud pride reassured relaxed relief
relieved respect respectful satisfaction satisfied secure serene sincere smiling supportive sympathetic
tender thankful thrilled touched trust trusting warm welcoming
"""
NEGATIVE_WORDS = """
abandoned afraid aggressive agitated alarmed alone angry anger anguish annoyance annoyed anxiety anxious
ashamed awkward bad bitter bored boredom burdened complaining concern concerned confused confusion
contempt contemptuous critical cruel defeated defensive dejected depressed depression desperate despair
despairing devastated disagreement disappointed disappointment disapproval disapproving discontent
discontented discouraged disgust disgusted disgusting dislike dismayed dismissive displeased disrespectful
dissatisfaction dissatisfied distress distressed distrust disturbed doubt doubtful embarrassed
embarrassment enraged envious exasperated exhausted fear fearful frightened frustrated frustration furious
gloomy grief grieving guilt guilty hate hatred heartbroken helpless helplessness hopeless hostile hurt
impatience impatient indignant inferior insecure insulted irritated irritation jealous lonely loneliness
lost mad melancholy miserable mocking mournful negative nervous nervousness offended outraged overwhelmed
pain pained panic panicked pessimistic powerless rage regret regretful rejected reluctant remorse
resentful resentment resigned sad sadness sarcastic scared serious shame shocked skeptical sorrow
sorrowful stressed stubborn suspicious tense tension terrified threatened tired troubled uncertain
uncomfortable uneasy unease unhappy upset vulnerable weary worried worry
"""
POSITIVE, NEGATIVE = (frozenset(text.split()) for text in (POSITIVE_WORDS, NEGATIVE_WORDS))


def literal_labels(reply: str) -> str:
    """Step A: a reply's label list, in the form the language model would write: `[happy, sad]`; `[]` for none."""
    labels = [piece.strip(TRIM) for piece in CUTS.split(_stated(reply))]
    return f"[{', '.join(label.lower() for label in labels if label)}]"


def literal_polarity(labels: str | Sequence[str]) -> str:
    """Step B: "positive" when more labels are pleasant than unpleasant, else "negative"."""
    balance = sum((label in POSITIVE) - (label in NEGATIVE) for label in normal_labels(labels))
    return "positive" if balance > 0 else "negative"


def answer_text(reply: str) -> str:
    """What stands inside `<answer>`; the whole reply when there is no such tag."""
    found = ANSWER.search(reply)
    return found.group(1).strip() if found else reply


def _stated(reply: str) -> str:
    if found := ANSWER.search(reply):
        return found.group(1)
    if found := STATE.search(reply):
        return found.group(1).split(".")[0]
    lists = BRACKETS.findall(reply)
    return str(lists[-1]) if lists else ""
