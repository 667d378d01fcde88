"""The words of MER-MINI: subtitles by cue, and paraphrases of every cue for the rationales.

All texts together use a small vocabulary, because the smallest models that are trained here have
about a thousand tokens. No paraphrase uses the cue's own name, and nothing names a label: what a
rationale says must be understood, it cannot be copied into the answer.
"""

from __future__ import annotations

from omniopsd.mer_mini.emotions import Part

SUBJECTS: tuple[str, ...] = ("my friend", "my brother", "the teacher", "our team")

# One sentence each; {who} is one of SUBJECTS.
SUBTITLES: dict[str, tuple[str, ...]] = {
    "praise": ("{who} won the big game", "{who} gave me a great gift", "{who} did a great job for me"),
    "loss": ("{who} lost the old dog", "{who} left and will not come back", "{who} is gone and I am alone"),
    "blame": ("{who} broke my door again", "{who} lied to me again", "stop it, {who} took my gift"),
    "doubt": ("what if {who} is lost", "{who} is late and does not answer", "I fear {who} will not come"),
    "shock": ("what, {who} is here", "I did not know {who} won", "wow, {who} did that"),
    "calm": ("{who} is fine and all is quiet", "all is fine with {who}", "{who} and I had a quiet day"),
    "plain": ("{who} came home at noon", "{who} put the book on the table", "{who} took the bus home"),
}

PARAPHRASES: dict[Part, dict[str, tuple[str, ...]]] = {
    "face": {
        "smile": ("the mouth corners turn up", "the lips curve up", "a closed grin appears"),
        "laugh": ("the open mouth curves up", "a big open grin appears", "the eyes close in a grin"),
        "tears": ("water runs down the cheeks", "wet drops fall from the eyes", "the cheeks turn wet"),
        "droop": ("the lids sink halfway", "heavy lids sink", "the mouth corners sink"),
        "glare": (
            "the brows press down",
            "the face turns red",
            "a red angle of brows appears",
        ),
        "teeth": ("the jaw is closed tight", "a tight white jaw appears", "the lips show a tight jaw"),
        "knit brows": ("the inner brow ends rise", "the brows tilt up inside", "the forehead folds up"),
        "sweat": (
            "a drop appears by the forehead",
            "a wet drop leaves the hair",
            "the forehead turns wet",
        ),
        "gasp": ("the mouth falls open and round", "the lips form a round hole", "the jaw falls open"),
        "wide eyes": ("the eyes grow large", "the lids fly open", "large round pupils appear"),
        "relaxed": ("the face stays at rest", "the mouth is a straight line", "nothing moves in the face"),
        "hidden": ("the face cannot be seen", "the head is turned away", "only hair can be seen"),
    },
    "voice": {
        "bouncy": (
            "the speech skips up and down",
            "the tone dances up and down",
            "quick notes rise and fall",
        ),
        "fading": ("the tone sinks and gets weak", "the speech is slow and sinks", "slow weak notes die"),
        "harsh": ("the speech is loud and rough", "loud rough bursts come", "the tone is rough and hard"),
        "shaky": ("the tone trembles", "the speech trembles all along", "long notes tremble"),
        "jump": (
            "the tone leaps after a stop",
            "the speech stops and then leaps",
            "a sudden high note comes",
        ),
        "level": ("the tone stays even", "the speech is even and steady", "even notes follow each other"),
        "noise": ("no speech can be heard", "only a hiss can be heard", "a hiss covers the speech"),
    },
    "posture": {
        "arms up": ("both limbs reach high", "the limbs rise over the head", "the hands reach for the sky"),
        "slumped": ("the body bends down", "the head hangs low", "the back is bent"),
        "fists": ("the hands are closed tight", "tight hands press on the chest", "both hands are balls"),
        "hand at mouth": ("a palm covers the lips", "fingers touch the lips", "one limb bends to the lips"),
        "hands on head": (
            "both palms hold the hair",
            "both palms press on the hair",
            "fingers touch the hair",
        ),
        "arms down": ("the body stands straight", "the limbs hang at the sides", "the body is at rest"),
        "blocked": ("a wall covers the body", "the body cannot be seen", "the body is behind a wall"),
    },
    "words": {
        "praise": ("the line brings good news", "the line tells of something good", "the line gives thanks"),
        "loss": ("the line tells of a parting", "the line tells of something gone", "the line says goodbye"),
        "blame": ("the line accuses somebody", "the line complains", "the line tells of wrong"),
        "doubt": ("the line asks about danger", "the line is not sure", "the line fears something bad"),
        "shock": (
            "the line tells of sudden news",
            "nobody could expect the line",
            "the line cannot believe it",
        ),
        "calm": ("the line says all is well", "the line tells of rest", "the line speaks of peace"),
        "plain": (
            "the line gives bare facts",
            "the line tells nothing about it",
            "the line stays empty",
        ),
    },
}

# How a rationale hints at the emotion, without its name.
FAMILIES: dict[str, tuple[str, ...]] = {
    "happy": ("joy", "delight"),
    "sad": ("grief", "sorrow"),
    "angry": ("rage", "fury"),
    "worried": ("unease", "dread"),
    "surprise": ("wonder", "amazement"),
    "neutral": ("balance", "an even mood"),
}

# {face}, {voice}, {posture}, {words}: one paraphrase each; {f0} {f1} {v0} {v1}: spans in seconds.
# Lower case throughout: a paraphrase reads the same, token by token, wherever it stands.
CONCLUDING: tuple[str, ...] = (
    "from {f0} to {f1} s {face}. {voice} from {v0} to {v1} s. in the picture {posture}, and {words}. "
    "this looks like {family}.",
    "{words}. while {voice} ({v0} to {v1} s), {face} ({f0} to {f1} s). the picture shows that {posture}. "
    "this could be called {family}.",
    "this seems close to {family}: {posture} in the picture, {face} ({f0} to {f1} s), "
    "{voice} ({v0} to {v1} s). in the text, {words}.",
    "it could be {family}. after {f0} s {face}. in the picture {posture}. from {v0} to {v1} s {voice}. "
    "in the text {words}.",
)
LISTING: tuple[str, ...] = (
    "in the clip {face} from {f0} to {f1} s. listen from {v0} to {v1} s: {voice}. in the picture "
    "{posture}. in the text, {words}.",
    "look at the picture: {posture}. then {voice}, from {v0} to {v1} s. in the text {words}. "
    "from {f0} to {f1} s {face}.",
)
