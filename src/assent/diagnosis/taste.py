"""What a file's better answers have and its worse ones do not, as a score of texts: words and pairs of words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

FEWEST_PAIRS = 50


def learn_taste(better: Sequence[str], worse: Sequence[str]) -> Callable[[Sequence[str]], list[float]]:
    """A logistic model (Bradley-Terry) of words and pairs of words. It ranks the file's pairs, and nothing else.

    Where the pairs are drawn from a policy, that policy's own answers lie, on the mean, halfway between the better and
    the worse ones; a policy that has learnt from the pairs lies above.
    """
    from scipy.sparse import vstack
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    words = CountVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), binary=True, min_df=2)
    words.fit([*better, *worse])
    differences = words.transform(better) - words.transform(worse)
    model = LogisticRegression(C=0.1, fit_intercept=False, max_iter=500)
    model.fit(vstack([differences, -differences]), [1] * len(better) + [0] * len(better))
    weights = model.coef_[0]
    return lambda texts: [float(score) for score in words.transform(texts) @ weights]
