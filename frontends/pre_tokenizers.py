"""How byte-level BPE cuts a text before it merges: GGUF says it by a name alone.

What the names mean is llama.cpp's (src/llama-vocab.cpp, which regular expressions of
`llm_tokenizer_bpe` belong to which `tokenizer_pre`); the expressions are those of the models'
own tokenizer.json.  Each cuts what those before it left: what it matches is a piece.
"""

from __future__ import annotations

from dataclasses import dataclass

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
"""A sign or a space in front of a word."""
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    "\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    "\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    "\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    "\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    "\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
"""Letters with a case, as DeepSeek's tokenizer lists them (of an old Unicode)."""
_CJK = "\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff"
_PUNCTUATION = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"


@dataclass(frozen=True)
class PreTokenizer:
    """Regular expressions, and what comes with them.

    whole_words: a word that is a token is one, whatever the merges say.  begins: a text has a first
    token where the file does not say.  composed: by Unicode's NFC at first, as the tokenizer that
    the model comes from does it; llama.cpp does not.
    """

    cuts: tuple[str, ...]
    whole_words: bool = False
    begins: bool = False
    composed: bool = False


def _words(digits: str, letters: str = r"\p{L}") -> str:
    """Words with a sign before them, numbers of so many digits, signs, spaces."""
    signs = _SIGNS.replace(r"\p{L}", letters)
    inside = letters if letters == r"\p{L}" else f"[{letters}]"
    return f"{_ENGLISH}|{_BEFORE}{inside}+|{digits}|{signs}|{_SPACES}"


def _by_case(digits: str, ending: str = "") -> str:
    """Words end where small letters are followed by a large one."""
    words = (f"{_UPPER}*{_LOWER}+", f"{_UPPER}+{_LOWER}*")
    cut = "|".join(f"{_BEFORE}{word}{ending}" for word in words)
    return f"{cut}|{digits}| ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n/]*|{_SPACES}"


_KINDS = {
    ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4", "gigachat"): (
        PreTokenizer((_GPT2,))
    ),
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"): (
        PreTokenizer((r"\p{N}", _GPT2))
    ),
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"): (
        PreTokenizer((_words(r"\p{N}{1,3}"),), whole_words=True, begins=True)
    ),
    ("dbrx", "smaug-bpe", "chatglm-bpe"): PreTokenizer((_words(r"\p{N}{1,3}"),)),
    ("glm4",): PreTokenizer((_words(r"\p{N}{1,3}"),), whole_words=True),
    ("qwen2", "deepseek-r1-qwen", "megrez"): (PreTokenizer((_words(r"\p{N}"),), composed=True)),
    ("qwen35",): PreTokenizer((_words(r"\p{N}", r"\p{L}\p{M}"),)),
    ("stablelm2", "hunyuan", "grok-2"): PreTokenizer((_words(r"\p{N}"),)),
    ("deepseek-llm",): PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?[{_LETTERS}]+",
            rf"\s?[{_PUNCTUATION}]+",
            r"\s+$",
            f"[{_CJK}]+",
            r"\p{N}+",
        )
    ),
    ("deepseek-coder",): PreTokenizer(
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", f"[{_CJK}]+", r"\p{N}")
    ),
    ("deepseek-v3", "hunyuan-dense"): PreTokenizer(
        (
            r"\p{N}{1,3}",
            "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES,
        )
    ),
    ("falcon",): PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9]{3}")),
    ("default",): PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9]{3}")),
    ("tekken",): PreTokenizer((_by_case(r"\p{N}"),), whole_words=True, begins=True),
    ("gpt-4o", "llama4"): PreTokenizer((_by_case(r"\p{N}{1,3}", f"{_ENGLISH}?"),)),
}

PRE_TOKENIZERS = {name: made for names, made in _KINDS.items() for name in names}
"""By the value of `tokenizer.ggml.pre`."""
