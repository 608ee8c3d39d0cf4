"""Data sets as memory-mapped Arrow files, and their partitions into clients and domains."""

from atoll.clients.data.catalog.loading import DATASETS as DATASETS
from atoll.clients.data.catalog.loading import load_dataset as load_dataset
from atoll.clients.data.files.dataset import Dataset as Dataset
from atoll.clients.data.files.dataset import Split as Split
from atoll.clients.data.partitioning.partition import Partition as Partition
from atoll.clients.data.partitioning.partition import class_histogram as class_histogram
from atoll.clients.data.partitioning.partition import partition_dataset as partition_dataset
