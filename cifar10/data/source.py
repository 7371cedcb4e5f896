"""Where a data set is on this machine, or is to be brought from."""

import dataclasses

from cifar10.data import datasets, download, records


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set in a folder, to be downloaded into it where it is not there.

    Attributes:
      dataset: the datasets.Dataset.
      data_dir: the folder that holds, or will hold, the data set's own folder.
      url, sha256: see download.ensure.
    """

    dataset: datasets.Dataset
    data_dir: str
    url: str | None = None
    sha256: str | None = None

    def ensure(self):
        """Makes sure that the data set is there: see download.ensure."""
        download.ensure(self.dataset, self.data_dir, self.url, self.sha256)

    def load(self, split):
        """Makes sure that the data set is there, and returns the records.Examples of 'train' or 'test'."""
        self.ensure()
        return records.load(self.dataset, self.data_dir, split)
