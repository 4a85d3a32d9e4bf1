#!/usr/bin/env python3
"""Makes a vocabulary in CLIP's format by byte pair encoding over invented words, for tests.

    make_vocab.py OUT [--merges 4000] [--seed 0] [--pad '<|endoftext|>'|'!'] [--shuffle] [--layout files|json|json-strings]

Writes vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json (layout "files"), or tokenizer.json and
tokenizer_config.json with the merges as pairs ("json") or as strings ("json-strings"). The words are in several scripts,
so that some merges make parts of characters. --shuffle puts the merges in random order, which no training gives but the
format allows. The same arguments give the same files.
"""

import argparse
import heapq
import json
import pathlib
import random

END = "</w>"
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def byte_characters():
    """GPT-2's byte_encoder: a printable character for each byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in kept}
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + len(table) - len(kept))
    return table


ALPHABETS = [
    "etaoinshrdlucmfwypvbgkjqxz",
    "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώ",
    "àâçéèêëîïôùûüÿñßæœåøäöþðıłőű",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "あいうえおかきくけこさしすせそタチツテトナニヌネノ",
    "的一是不了在人有我他这个们中来上大为和国地到以说时",
    "각난닫랄맘밥삿앙잦찿캌탙팦핳",
    "कखगघचछजझटठडढणतथदधनपफबभमािीुूेैो्ं",
    "😀😂🤣😊😍🎉🔥✨🌈🌊🏔🐈🐕🚀🎨",
    "!?.,;:-_()[]{}<>|/\\\"'#$%&*+=@^`~",
]


def invent_words(rng, count):
    words = {}
    syllables = []
    for alphabet in ALPHABETS:
        weights = [1 / (i + 2) for i in range(len(alphabet))]
        syllables.append(["".join(rng.choices(alphabet, weights, k=rng.randint(1, 3))) for _ in range(60)])
    for _ in range(count):
        script = 0 if rng.random() < 0.5 else rng.randrange(len(ALPHABETS))
        word = "".join(rng.choices(syllables[script], k=rng.randint(1, 4)))
        words[word] = words.get(word, 0) + rng.randint(1, 50)
    return words


class Trainer:
    """Counts neighbours over words and joins the most frequent pair, again and again."""

    def __init__(self, words):
        table = byte_characters()
        self.words, self.counts = [], []
        self.pairs, self.places = {}, {}
        for word, count in sorted(words.items()):
            symbols = [table[b] for b in word.encode()]
            symbols[-1] += END
            self.words.append(symbols)
            self.counts.append(count)
        for i, symbols in enumerate(self.words):
            for pair in zip(symbols, symbols[1:]):
                self._count(pair, self.counts[i], i)
        self.heap = [(-n, pair) for pair, n in self.pairs.items()]
        heapq.heapify(self.heap)

    def _count(self, pair, n, i):
        self.pairs[pair] = self.pairs.get(pair, 0) + n
        self.places.setdefault(pair, set()).add(i)

    def best(self):
        while self.heap:
            n, pair = heapq.heappop(self.heap)
            if self.pairs.get(pair, 0) == -n and n < 0:
                return pair
        return None

    def join(self, pair):
        changed = set()
        for i in sorted(self.places.pop(pair)):
            old = self.words[i]
            for other in zip(old, old[1:]):
                self.pairs[other] -= self.counts[i]
                changed.add(other)
            new, k = [], 0
            while k < len(old):
                if k + 1 < len(old) and (old[k], old[k + 1]) == pair:
                    new.append(old[k] + old[k + 1])
                    k += 2
                else:
                    new.append(old[k])
                    k += 1
            self.words[i] = new
            for other in zip(new, new[1:]):
                self._count(other, self.counts[i], i)
                changed.add(other)
        for other in sorted(changed):
            if self.pairs[other] > 0:
                heapq.heappush(self.heap, (-self.pairs[other], other))


def train(rng, count):
    trainer = Trainer(invent_words(rng, 3 * count))
    merges = []
    while len(merges) < count:
        pair = trainer.best()
        if pair is None:
            break
        trainer.join(pair)
        merges.append(pair)
    return merges


def make_vocabulary(merges):
    order = byte_characters()
    tokens = [order[b] for b in sorted(order, key=lambda b: (ord(order[b]) > 255, ord(order[b])))]
    tokens += [t + END for t in tokens]
    vocabulary = {}
    for token in tokens + ["".join(m) for m in merges] + [BOS, EOS]:
        vocabulary.setdefault(token, len(vocabulary))
    return vocabulary


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def write_tokenizer_json(out, vocabulary, merges, as_strings):
    added = [
        {"id": vocabulary[t], "content": t, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for t in (BOS, EOS)
    ]
    model = {"type": "BPE", "dropout": None, "unk_token": EOS, "continuing_subword_prefix": "",
             "end_of_word_suffix": END, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": vocabulary, "merges": [" ".join(m) for m in merges] if as_strings else merges}
    pattern = (r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    write_json(out / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
        "post_processor": {"type": "RobertaProcessing", "sep": [EOS, vocabulary[EOS]], "cls": [BOS, vocabulary[BOS]],
                           "trim_offsets": False, "add_prefix_space": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model})


def write(out, merges, pad=EOS, layout="files"):
    """Writes the directory; returns the vocabulary."""
    vocabulary = make_vocabulary(merges)
    out.mkdir(parents=True, exist_ok=True)
    tokens = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": pad}
    write_json(out / "tokenizer_config.json",
               {**tokens, "model_max_length": 77, "do_lower_case": True, "tokenizer_class": "CLIPTokenizer"})
    if layout == "files":
        write_json(out / "vocab.json", vocabulary)
        lines = "".join(f"{left} {right}\n" for left, right in merges)
        (out / "merges.txt").write_text("#version: 0.2\n" + lines, encoding="utf-8")
        write_json(out / "special_tokens_map.json", tokens)
    else:
        write_tokenizer_json(out, vocabulary, merges, layout == "json-strings")
    return vocabulary


def make(out, merges=4000, seed=0, pad=EOS, shuffle=False, layout="files"):
    rng = random.Random(seed)
    learnt = train(rng, merges)
    if shuffle:
        rng.shuffle(learnt)
    return write(pathlib.Path(out), learnt, pad, layout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--merges", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pad", default=EOS)
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--layout", choices=["files", "json", "json-strings"], default="files")
    options = parser.parse_args()
    vocabulary = make(**vars(options))
    print(f"{options.out}: {len(vocabulary)} tokens")


if __name__ == "__main__":
    main()
