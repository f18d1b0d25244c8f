"""The texts on which two tokenizers must agree: many scripts, code, white space, and strings that nobody writes."""

from __future__ import annotations

import random
from functools import lru_cache

TEXTS = (
    "",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t\t",
    "a",
    " a",
    "a ",
    "  a  b   c ",
    "\n\n\n x\r\n \t y\u00a0z\u3000w",
    "\x00\x01\x7f",
    "All human beings are born free and equal in dignity and rights.",
    "IT'S o'clock, they'LL don't we've I'm you'd",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren; größere Übungen für süße Bären.",
    "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。",
    "すべての人間は、生まれながらにして自由であり、ﾊﾝｶｸ。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng.",
    "ሁሉም የሰው ልጆች ነጻ ሆነው ይወለዳሉ",
    "ყველა ადამიანი იბადება თავისუფალი",
    "Բոլոր մարդիկ ծնվում են ազատ",
    "ພາສາລາວ ខ្មែរ မြန်မာ தமிழ் తెలుగు",
    "e\u0301 o\u0308 \u1100\u1161\u11a8 \u0e33 q\u0323\u0307 \u0344 \ufb01 \u2126 \u212b ½ ² Ⅳ ㎏ ｆｕｌｌ",
    "😀 👨‍👩‍👧 🇩🇪 ✌🏽 ❤️ \u200b \u200d \ufeff \u202e x",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𒀀 𓀀 \U0001f9ff \U0010fffd",
    "1234567890 3.14159 1,000,000 0xdeadbeef 2024-01-31T12:59:59Z +49 (0)30 ٠١٢٣ ๑๒๓",
    "def f(x: int) -> dict[str, Any]:\n    return {**x, 'a': [1, 2, 3]}  # comment\n\n\n",
    "\tif (a != b && c[i] >= 0) { i++; }\n",
    "https://example.org/a/b?c=d&e=%20f#g user.name+tag@mail.example.com C:\\Windows\\System32 ~/.ssh/id_rsa",
    "QWxhZGRpbjpvcGVuIHNlc2FtZQ== 550e8400-e29b-41d4-a716-446655440000 sha256:e3b0c44298fc1c149afbf4c8996fb924",
    "<|im_start|>system\n<|im_end|> <think>\n\n</think> <|endoftext|> </s> [CLS] <s> <unk>",
    "!!! ??? ... --- *** ___ ((( ))) §§ €€ ¿¡",
    "x" * 400,
    "ab" * 300,
    " " * 200,
    "\n" * 100,
    "-" * 300,
    "的" * 200,
    "a\u0301" * 100,
)

_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "etaoinshrdlu",
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./(){}[]<>=\"' \n\t",
    "абвгдежзийклмнопрстуфхцчшщъыьэюя ",
    "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去行过家十用发天如然作方成者多日",
    "กขคงจชซญดตถทธนบปผฝพฟภมยรลวศษสหอฮะาิีึืุูเแโใไ",
    "가나다라마바사아자차카타파하고노도로모보소오조초코토포호 ",
    "עבגדהוזחטיכלמנסעפצקרשת ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "αβγδεζηθικλμνξοπρστυφχψω éèêëàâäôöûüçñß",
    "😀😁😂🤣😃🇩🇪👨\u200d👩\u200d👧✌🏽❤\ufe0f ",
    "a \u0301\u0308\u0323\u0327e",
)
_RANDOM_TEXTS = 1000


@lru_cache
def sample_texts() -> tuple[str, ...]:
    """Fixed texts, and as many strings of random characters, the same ones in every run."""
    rng = random.Random(0)
    made = ("".join(rng.choices(rng.choice(_ALPHABETS), k=rng.randint(1, 40))) for _ in range(_RANDOM_TEXTS))
    return (*TEXTS, *made)
