#!/usr/bin/env python3
"""Writes random prompts and what the rules of engine/text/prompt.h make of them, for tests/unit/test_prompt.c.

usage: make_prompt_reference.py [SEED] > tests/unit/data/prompt_reference.txt
       make_prompt_reference.py --show TEXT    one prompt's chunks, to find out what differs

The rules are written down here a second time, slow and without the C code's structure: first every bracket finds its
mate, then every character gets its weight, then the tokens between two breaks are cut. Two lines a case: the prompt;
"chunks_max chunk_count tokens weighted hash", the hash being FNV-1a over the 32-bit words of all ids, then of all
weights. The tokenizer is that of tests/support/tiny_vocab.c without merges: byte b is b, and 256 + b at a word's end."""
import random
import re
import struct
import sys
import unicodedata

BOS, EOS = 512, 513
WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\w\s]|_)+")
FACTOR = re.compile(r":\s*([+-]?[.0-9]+)\s*\)")
BREAK = re.compile(r"\s*\bBREAK\b\s*")


def number(text):
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", text) or len(text) > 63 or abs(float(text)) > 1000:
        return None
    return float(text)


def scan(text):
    """The text's elements in order: [kind, text, factor], kind "text", "open(" "open[" "close(" "close["."""
    at, elements = 0, []
    while at < len(text):
        c, factor = text[at], FACTOR.match(text, at)
        if c == "\\":
            escaped = text[at + 1:at + 2] if text[at + 1:at + 2] in list("()[]\\") else ""
            elements.append(["text", escaped, None])
            at += 1 + len(escaped)
        elif c in "([":
            elements.append(["open" + c, c, None])
            at += 1
        elif c in ")]":
            elements.append(["close" + {")": "(", "]": "["}[c], c, 1.1 if c == ")" else 1 / 1.1])
            at += 1
        elif c == ":" and factor and number(factor[1]) is not None:
            elements.append(["close(", factor[0], number(factor[1])])
            at = factor.end()
        else:
            run = c if c == ":" else re.match(r"[^\\()\[\]:]+", text[at:])[0]
            elements.append(["run", run, None])
            at += len(run)
    return elements


def parts(text):
    """[text, weight] in order, None for a break."""
    elements = scan(text)
    ranges = []  # [first element, last element, factor] in the order of closing
    unclosed = []
    for kind, plain in (("(", 1.1), ("[", 1 / 1.1)):
        stack = []
        for i, element in enumerate(elements):
            if element[0] == "open" + kind:
                stack.append(i)
            elif element[0] == "close" + kind:
                if stack:
                    ranges.append((i, stack.pop(), element[2]))
                else:
                    element[0] = "text"
        unclosed += [(len(elements), first, plain) for first in stack]
    ranges = sorted(ranges) + unclosed
    pieces = []
    for i, (kind, content, _) in enumerate(elements):
        if kind not in ("text", "run"):
            continue
        weight = 1.0
        for last, first, factor in ranges:
            if first < i < last:
                weight *= factor
        for k, words in enumerate(BREAK.split(content) if kind == "run" else [content]):
            pieces += [None] if k else []
            pieces.append([words, weight])
    result = []
    for piece in pieces:
        if piece and result and result[-1] and result[-1][1] == piece[1]:
            result[-1] = [result[-1][0] + piece[0], piece[1]]
        else:
            result.append(piece)
    return result


def tokenize(text):
    ids = []
    for word in WORD.findall(unicodedata.normalize("NFC", text).lower()):
        data = word.encode()
        ids += [*data[:-1], 256 + data[-1]]
    return ids


def cut(tokens):
    """Chunks of what stands between two breaks."""
    chunks = []
    while len(tokens) > 75:
        end = 75
        if tokens[75][0] != 256 + ord(","):
            end = next((i + 1 for i in range(74, 54, -1) if tokens[i][0] == 256 + ord(",")), 75)
        chunks.append(tokens[:end])
        tokens = tokens[end:]
    return chunks + [tokens]


def encode(text, chunks_max):
    sections = [[]]
    for part in parts(text):
        if part is None:
            sections.append([])
        else:
            sections[-1] += [(token, part[1]) for token in tokenize(part[0])]
    if len(sections) > 1 and not sections[-1]:
        sections.pop()
    chunks = [chunk for section in sections for chunk in cut(section)][:chunks_max]
    return chunks, sum(map(len, sections))


def case(text, chunks_max):
    chunks, tokens = encode(text, chunks_max)
    ids, weights = [], []
    for chunk in chunks:
        rest = 76 - len(chunk)
        ids += [BOS] + [token for token, _ in chunk] + [EOS] * rest
        weights += [1.0] + [max(min(weight, 1e6), -1e6) for _, weight in chunk] + [1.0] * rest
    data = struct.pack(f"<{len(ids)}i{len(weights)}f", *ids, *weights)
    value = 0xcbf29ce484222325
    for word in struct.unpack(f"<{len(data) // 4}I", data):
        value = (value ^ word) * 0x100000001b3 % 2**64
    weighted = int(any(weight != 1 for weight in struct.unpack(f"<{len(weights)}f", data[-4 * len(weights):])))
    return f"{text}\n{chunks_max} {len(chunks)} {tokens} {weighted} {value:x}"


SYNTAX = ["(", "(", ")", ")", "[", "]", "\\", "\\(", "\\)", "\\]", "\\\\", ":", ":1.3)", ":0.5)", ": -2 )", ":.75)", ":1.1.1)",
          ":1001)", ":1\u3000)", ":1)", " BREAK ", "BREAK", ",BREAK\u00a0", "BREAK_", "\u00e9BREAK"]
WORDS = ["a", "cat", ",", ", ", " ", "  ", "on the", "mat's", "12", "!?", "\u00c9t\u00e9", "e\u0301", "\u65e5\u672c", "_", "'s", ". "]


def random_text(generator):
    length = generator.choice([3, 8, 20, 60])
    share = generator.choice([0, 0.1, 0.5])  # of syntax
    return "".join(generator.choice(SYNTAX if generator.random() < share else WORDS) for _ in range(length))


def random_list(generator):
    """Words and commas, as prompts have them, some in brackets."""
    text = ""
    for _ in range(generator.randint(20, 60)):
        item = "x" * generator.randint(1, 30)
        text += generator.choice(["{}", "{}", "({})", "[{}]", "({}:1.4)"]).format(item)
        text += generator.choice([", ", " ", ",", " BREAK "][:generator.choice([3, 3, 4])])
    return text


if __name__ == "__main__":
    if sys.argv[1:2] == ["--show"]:
        for chunk in encode(sys.argv[2], 1 << 20)[0]:
            print(len(chunk), *(f"{token}@{weight:.9g}" for token, weight in chunk))
        sys.exit()
    draw = random.Random(int(sys.argv[1]) if sys.argv[1:] else 4)
    for index in range(400):
        print(case(random_list(draw) if index % 4 == 0 else random_text(draw), draw.choice([1, 2, 3, 20])))
