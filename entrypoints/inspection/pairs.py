"""The pairs that ``engine verify`` scores when it is given none: short and long, close and far, several scripts."""

from __future__ import annotations

QuerySet = list[tuple[str, list[str]]]

_QUESTIONS: QuerySet = [
    (
        "What is the capital of China?",
        [
            "The capital of China is Beijing.",
            "Shanghai is the largest city of China by population and an important port.",
            "Paris has been the capital of France for many centuries.",
            "Gravity attracts two bodies towards each other.",
        ],
    ),
    (
        "Why is the sky blue?",
        [
            "Air molecules scatter the short wavelengths of sunlight more than the long ones, so blue light reaches us "
            "from every part of the sky.",
            "The sky is often cloudy in autumn, and the blue of summer is missed.",
            "The sea is salty because rivers carry dissolved minerals into it.",
            "",
        ],
    ),
    (
        "How do I undo the last git commit but keep my changes?",
        [
            "git reset --soft HEAD~1 moves the branch back by one commit and leaves your changes staged.",
            "git revert HEAD makes a new commit that undoes the last one.",
            "def undo(stack):\n    if not stack:\n        raise IndexError('nothing to undo')\n    return stack.pop()",
            "Un commit enregistre l'état du projet avec un message qui dit pourquoi.",
        ],
    ),
    (
        "北京是哪个国家的首都？",
        [
            "北京是中国的首都。",
            "東京は日本の首都です。",
            "Пекин является столицей Китая.",
            "القاهرة هي عاصمة مصر.",
        ],
    ),
    (
        "symptoms of a vitamin D deficiency 🦴",
        [
            "Too little vitamin D shows in tiredness, aching bones, weak muscles and, in children, bowed legs.",
            "Vitamin C is found in citrus fruit, peppers and cabbage. 🍊",
            "The deficit of the budget grew to 3.4 % of the gross domestic product.",
            "D is the fourth letter of the Latin alphabet.",
        ],
    ),
]


def built_in_pairs() -> QuerySet:
    """Five questions with five documents each; the last document of the first two is long, once longer than a step."""
    everything = "\n\n".join(document for _, documents in _QUESTIONS for document in documents)
    joined = ["\n\n".join(documents) for _, documents in _QUESTIONS]
    joined[0] = "\n\n".join([everything, everything.swapcase(), everything.upper()])
    joined[1] = everything
    return [(query, [*documents, last]) for (query, documents), last in zip(_QUESTIONS, joined, strict=True)]
