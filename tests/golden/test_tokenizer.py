"""The tokenizer gives the ids that transformers' CLIPTokenizer gives, over invented vocabularies and every layout of
files that transformers reads.

The texts go through the program tests/tokenize (tests/support/tokenize.c). `build_dir` is tests/conftest.py's.
"""

import json
import os
import random
import struct
import subprocess

import pytest

import make_vocab

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
try:
    import transformers
except ModuleNotFoundError:
    transformers = None

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MERGES = 3000


def token(content, normalized=True, **more):
    return {"content": content, "lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False, **more}


def rewrite(path, change):
    value = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(change(value)), encoding="utf-8")


# Each makes a directory and returns it. The names say whose files it is like.


def plain(out):
    make_vocab.make(out, MERGES, seed=1)
    return out


def bare(out):
    plain(out)
    (out / "tokenizer_config.json").unlink()
    (out / "special_tokens_map.json").unlink()
    return out


def sd15(out):
    plain(out)
    rewrite(out / "special_tokens_map.json",
            lambda _: {"bos_token": token(BOS), "eos_token": token(EOS), "pad_token": EOS, "unk_token": token(EOS)})
    rewrite(out / "tokenizer_config.json",
            lambda v: {**v, **{f"{k}_token": {"__type": "AddedToken", **token(c)}
                               for k, c in (("bos", BOS), ("eos", EOS), ("unk", EOS))}})
    return out


def sd2(out):
    make_vocab.make(out, MERGES, seed=2, pad="!")
    rewrite(out / "special_tokens_map.json",
            lambda _: {"bos_token": token(BOS), "eos_token": token(EOS), "pad_token": "!", "unk_token": token(EOS)})
    return out


def sd2_strings(out):
    make_vocab.make(out, MERGES, seed=2, pad="!")
    return out


def config_only(out):
    make_vocab.make(out, MERGES, seed=2, pad="!")
    (out / "special_tokens_map.json").unlink()
    return out


def shuffled(out):
    make_vocab.make(out, MERGES, seed=3, shuffle=True)
    return out


def json_pairs(out):
    make_vocab.make(out, MERGES, seed=4, layout="json")
    return out


def json_strings(out):
    make_vocab.make(out, MERGES, seed=5, layout="json-strings", pad="!")
    return out


def saved(out):
    source = sd15(out / "source")
    transformers.CLIPTokenizer.from_pretrained(source).save_pretrained(out)
    return out


def saved_sd2(out):
    source = sd2(out / "source")
    transformers.CLIPTokenizer.from_pretrained(source).save_pretrained(out)
    return out


def both_kinds(out):
    """tokenizer.json and vocab.json, of different vocabularies."""
    make_vocab.make(out, MERGES, seed=1)
    make_vocab.make(out, MERGES, seed=4, layout="json")
    return out


def decoder(out):
    plain(out)
    size = len(json.loads((out / "vocab.json").read_text(encoding="utf-8")))
    rewrite(out / "tokenizer_config.json", lambda v: {
        **v, "pad_token": "!", "added_tokens_decoder": {
            "0": token("!", False, special=True),
            str(size - 2): token(BOS, True, special=True), str(size - 1): token(EOS, False, special=True),
            str(size): token("<Concept One>", True, special=False), str(size + 1): token("<b>", False, special=False)}})
    return out


def added(out):
    sd15(out)
    size = len(json.loads((out / "vocab.json").read_text(encoding="utf-8")))
    rewrite(out / "added_tokens.json", lambda _: {"<Concept One>": size, "<c>": size + 1, "<cc>": size + 2})
    rewrite(out / "special_tokens_map.json",
            lambda v: {**v, "additional_special_tokens": ["<c>", "the", "É", "<late>"], "mask_token": "<mask>"})
    return out


def mixed_flags(out):
    plain(out)
    rewrite(out / "special_tokens_map.json",
            lambda _: {"bos_token": BOS, "eos_token": token(EOS, False), "unk_token": token(EOS, True), "pad_token": EOS})
    return out


def sparse(out):
    """Objects that leave out what they can: then "normalized" is "not special"."""
    plain(out)
    rewrite(out / "special_tokens_map.json",
            lambda _: {"bos_token": {"content": BOS}, "eos_token": {"content": EOS}, "pad_token": {"content": "!"}})
    rewrite(out / "tokenizer_config.json",
            lambda v: {**v, "mask_token": {"__type": "AddedToken", "content": "<B>"}})
    return out


def sparse_decoder(out):
    plain(out)
    size = len(json.loads((out / "vocab.json").read_text(encoding="utf-8")))
    rewrite(out / "tokenizer_config.json", lambda v: {
        **v, "added_tokens_decoder": {
            str(size - 1): {"content": EOS}, str(size): {"content": "<B>"},
            str(size + 1): {"content": "<C>", "special": True}}})
    return out


def stripping(out):
    plain(out)
    rewrite(out / "special_tokens_map.json", lambda _: {
        "bos_token": {**token(BOS, False), "lstrip": True, "rstrip": True},
        "eos_token": {**token(EOS, True), "lstrip": True, "rstrip": True}, "unk_token": EOS, "pad_token": "!"})
    return out


def null_pad(out):
    plain(out)
    (out / "special_tokens_map.json").unlink()
    rewrite(out / "tokenizer_config.json", lambda v: {**v, "pad_token": None})
    return out


DIRECTORIES = [plain, bare, sd15, sd2, sd2_strings, config_only, shuffled, json_pairs, json_strings, saved, saved_sd2,
               both_kinds, decoder, added, mixed_flags, sparse, sparse_decoder,
               stripping, null_pad]

NASTY = [
    "", " ", "   ", "\t\n\r\v\f", "\u00a0\u2003\u3000", "\x00", "a\x00b", "\x1c\x1d\x1e\x1f", "\x85", "\u200b\u200d\ufeff",
    "\u180e", "a\u200bb", "a b", " a  b ", "a\tb\nc\r\nd", "\x7f\x80\x9f", "A photo of a cat", "HELLO World",
    EOS, BOS, BOS + EOS, f"a{EOS}b", f"a {EOS} b", f"{EOS}{EOS}", "<|ENDOFTEXT|>", "<|EndOfText|> x", "a<|STARTOFTEXT|>b",
    "!!<|ENDOFTEXT|>!!", "<|ENDOFTEXT|>!!", "<|ENDOFTEXT|><|ENDOFTEXT|>", "<<|ENDOFTEXT|>", "<|endoftext|", "|endoftext|>",
    "<|endoftext |>", "< |endoftext|>", "<|end\u00adoftext|>", "<|endoftext|>\u0301", "<|ENDOFTEXT|>\u0301",
    "a<|ENDOFTEXT|>'s", "<|endoftext|>'s", "<|startoftext|><|ENDOFTEXT|>", "<|\u212aendoftext|>", "<|ENDOFTE\u0425T|>",
    "!", "!!", "! !", "hi!", "hi !", "!hi", "hi!!!hi", "\uff01", "\u01c3",
    "it's", "IT'S", "'s", "''s", "'s's", "'S", "don't", "we'll", "we'LL've", "I'm'd", "they're'll", "'ll", "'l", "'r", "'re",
    "'rest", "'sing", "o'clock", "\u2019s", "it\u2019s", "'\u017f", "'\u0130", "rock'n'roll", "'", "''", "'''", "!'s", "' s",
    "1's", "'1", "'t'", "x've1", "\"'s\"", "'S'T'RE'VE'M'LL'D",
    "123", "1 2 3", "a1b2", "½", "Ⅷ", "²", "x²", "٣٤٥", "١٢٣abc", "१२३", "①②", "𝟘𝟙", "㉈", "〇〡〢", "1٣½²Ⅷ", "3.14", "1e-5",
    "é", "e\u0301", "E\u0301", "\u0301", " \u0301", "a\u0301\u0323", "a\u0323\u0301", "\u0344", "\u0340\u0341\u0343",
    "İ", "I\u0307", "İİ", "iİ'S", "ı", "ß", "ẞ", "ﬁ", "ſ", "K", "Å", "Ω", "ΑΣ", "ΣΑΣ Σ", "ὈΔΥΣΣΕΎΣ", "ǅ", "Ǆ", "Ⱥ", "Ⴀ", "Ა", "Ꭰ",
    "ᾳ", "ᾼ", "\u1f82", "\u0390", "\u1fef", "\u037e", "\u0387", "\u2000\u2001", "\u2126\u212a\u212b",
    "한국어", "\u1112\u1161\u11ab\u1100\u116e\u11a8", "\u1100\u1161\u11a7", "\uac00\u11a8", "\u1161\u11a8", "\u1100\u1100\u1161",
    "日本語のテキスト", "か\u3099", "ハ\u309a", "ﾊﾟ", "中文。字符", "\uf900\ufa10", "\U0002f800", "ไทย", "ภาษาไทย", "हिन्दी", "தமிழ்",
    "العربية", "עִבְרִית", "\u05d1\u05bc\u05b7", "\u0f71\u0f72\u0f74", "\u09c7\u09be", "\u0b47\u0b57", "\u1025\u102e",
    "\U00011935\U00011930", "\U00011938", "\U00011099\U000110ba", "\U0001d157\U0001d165", "a\u1df6\u0301", "e\u1abf\u0301",
    "\u0c3c\u0c4d", "a\u0301\u1dfa\u0323", "\U000113c2\U000113c9", "\U000105d2\u0307", "\u1ac7\u0300a\u0300",
    "😀", "👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "☂️", "❤️‍🔥", "a😀b", "😀😀", "😀!", "\ufe0f", "#️⃣", "\U000e0067",
    "\u0378", "\U000e01ef", "\U0010ffff", "\uffff", "\ufffe", "\ufdd0", "\ue000", "\U000f0000", "\U00040000",
    "\u1c89\ua7cb\ua7da\ua7dc", "\U00010d50\U00010d65\U00010d40", "\U00016ea0", "\U0002ebf0", "\ua7ce\ua7d2",
    "_", "__a__", "a_b", "-", "--", "...", "…", "—", "«»", "¿Qué?", "C++ & C#", "a/b\\c", "http://x.y/z?q=1&r=%20", "@user #tag",
    "$5.00 €5 £5", "(((masterpiece)))", "[a:b:0.5]", "<lora:x:1>", "{a|b}", "a,b,c", "a , b", "~`^", "\\n", "\\", "/",
    "a" * 300, "ab" * 200, "!" * 300, "é" * 200, "😀" * 100, "\u0301" * 100, "a" + "\u0301\u0323" * 60, "1" * 100, " " * 300,
    "'s" * 100, "<" * 200, "<|" * 100, "\u0130" * 100, "aA" * 150, "\u0323\u0301\u0334\u0345" * 50,
    "<Concept One>", "<concept one>", "a <CONCEPT   ONE> b", "<concept\u00a0one>x", "<concept one", "<b>", "<B>", "<bb>",
    "<c>", "<cc>", "<C>", "<CC>", "<c><cc>", "the", "other", "The", "É", "E\u0301", "é", "<late>", "<mask>", "<late><mask>",
]

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ     ",
    "".join(map(chr, range(128))),
    "".join(map(chr, range(0xA0, 0x250))),
    "".join(make_vocab.ALPHABETS) + "  ",
    "aeiouAEIOU'\u2019stremldSTREMLD !1",
    "aeou \u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030c\u031b\u0323\u0327\u0328\u0331\u0334\u0345\u0338",
    "ΑΒΣσςΩωάέ\u0301\u0313\u0314\u0342\u0345 \u1df6\u1dfa\u05b0\u05bc",
    "\u1100\u1102\u1112\u1161\u1162\u1175\u11a7\u11a8\u11c2\uac00\uac01\ud7a3 ",
    "0123456789½²Ⅷ٣१①𝟘 .,x",
    "<|>!endoftxsar ENDOFTXSAR'",
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2003\u2028\u2029\u202f\u205f\u3000\u180e\u200b\ufeffab!1",
]


def random_texts(seed, count):
    rng = random.Random(seed)
    assigned = [*range(0x20, 0xD800), *range(0xE000, 0x20000), *range(0x2F800, 0x2FA20), *range(0xE0100, 0xE01F0)]
    whole = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = []
    for _ in range(count):
        kind = rng.randrange(len(ALPHABETS) + 3)
        length = int(rng.expovariate(1 / 20)) + 1
        if kind < len(ALPHABETS):
            text = "".join(rng.choices(ALPHABETS[kind], k=length))
        elif kind == len(ALPHABETS):
            text = "".join(map(chr, rng.choices(assigned, k=length)))
        elif kind == len(ALPHABETS) + 1:
            text = "".join(map(chr, rng.choices(whole, k=length)))
        else:
            text = "".join(rng.choice(NASTY) for _ in range(rng.randint(1, 4)))
        if rng.random() < 0.1:
            at = rng.randint(0, len(text))
            text = text[:at] + rng.choice([EOS, BOS, EOS.upper(), "!", "<b>", "<c>", "<Concept One>"]) + text[at:]
        texts.append(text)
    return texts


def ours(build_dir, directory, texts, count):
    data = b"".join(struct.pack("<I", len(b)) + b for b in (t.encode() for t in texts))
    run = subprocess.run([build_dir / "tests" / "tokenize", directory, str(count)], input=data, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout.decode().splitlines()


@pytest.fixture(scope="module", autouse=True)
def needs_transformers(request):
    if transformers is None and request.config.getoption("--require-diffusers"):
        pytest.fail("transformers is missing", pytrace=False)
    if transformers is None:
        pytest.skip("needs transformers")


def compare(build_dir, directory, texts, tokenizer):
    lines = ours(build_dir, directory, texts, 0)
    assert len(lines) == len(texts)
    expected = tokenizer(texts, truncation=False).input_ids
    wrong = [(t, e, line) for t, e, line in zip(texts, expected, lines) if line.split()[1:] != [str(i) for i in e]]
    for text, ids, line in wrong[:5]:
        print(ascii(text), [f"U+{ord(c):04X}" for c in text[:40]], "expected", ids, "got", line)
    assert not wrong, f"{len(wrong)} of {len(texts)} texts differ, first {ascii(wrong[0][0])}"


@pytest.fixture(scope="module", params=DIRECTORIES, ids=lambda f: f.__name__)
def directory(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp(request.param.__name__))


@pytest.fixture(scope="module")
def tokenizer(directory):
    return transformers.CLIPTokenizer.from_pretrained(directory)


def test_nasty_texts(build_dir, directory, tokenizer):
    compare(build_dir, directory, NASTY, tokenizer)


def test_random_texts(build_dir, directory, tokenizer):
    compare(build_dir, directory, random_texts(directory.name, 3000), tokenizer)


@pytest.mark.parametrize("count", [2, 3, 8, 77])
def test_padding_and_truncation(build_dir, directory, tokenizer, count):
    """The call that diffusers makes. A tokenizer without a pad token cannot; here it pads with eos."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = EOS
    texts = NASTY + random_texts(count, 300)
    expected = tokenizer(texts, padding="max_length", max_length=count, truncation=True).input_ids
    whole = tokenizer(texts, truncation=False).input_ids
    for text, ids, all_ids, line in zip(texts, expected, whole, ours(build_dir, directory, texts, count)):
        assert [int(x) for x in line.split()] == [len(all_ids) - 2] + ids, ascii(text)


def code_points():
    """Every code point that any version of Unicode may assign soon; a few of the rest."""
    rest = [*range(0x40000, 0xE0000, 977), *range(0xE1000, 0x110000, 977)]
    return [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000), *rest]


@pytest.mark.parametrize("pattern", ["a{c}b ", "{c}\u0301\u0323 ", "a\u0323{c}\u0301 ", "x {c}{c}'s "])
def test_every_code_point(build_dir, tmp_path_factory, pattern):
    """Class, lower case and normal form of each code point, seen from the ids: the vocabulary has no merges but letters
    with their neighbours, so that almost every difference shows."""
    out = tmp_path_factory.mktemp("bytes")
    make_vocab.write(out, [("a", "b</w>"), ("a", "b"), ("'", "s</w>")])
    points = code_points()
    texts = ["".join(pattern.replace("{c}", chr(c)) for c in points[i:i + 16]) for i in range(0, len(points), 16)]
    compare(build_dir, out, texts, transformers.CLIPTokenizer.from_pretrained(out))


def test_long_texts(build_dir, tmp_path):
    plain(tmp_path)
    rng = random.Random(7)
    letters = "".join(rng.choices("etaoinshrdlu", k=30000))
    texts = [letters, "ab" * 15000, "!" * 30000, "".join(rng.choices("!?.,;:-", k=30000)), "\u0301\u0323" * 10000,
             " ".join(letters[i:i + 5] for i in range(0, 30000, 5)), "é" * 10000, "<|" * 10000, "'s" * 10000]
    compare(build_dir, tmp_path, texts, transformers.CLIPTokenizer.from_pretrained(tmp_path))


def test_invalid_utf8(build_dir, tmp_path):
    plain(tmp_path)
    bad = [b"\xff", b"a\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"ab\xc3"]
    data = b"".join(struct.pack("<I", len(b)) + b for b in bad)
    run = subprocess.run([build_dir / "tests" / "tokenize", tmp_path, "77"], input=data, capture_output=True)
    assert run.returncode == 0
    lines = run.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["error"] * len(bad)
    assert lines[1].endswith("byte 1") and lines[6].endswith("byte 2")
