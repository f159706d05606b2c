"""What data there is: where it comes from, under which license, and where it lies on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mlkit.project import nearest


@dataclass(frozen=True)
class Archive:
    """One file to download: ordered mirrors, exact size in bytes, sha256, and the folder that it unpacks to."""

    urls: tuple[str, ...]
    bytes: int
    sha256: str
    unpacks_to: str

    @property
    def filename(self) -> str:
        """Name of the file, as its first mirror has it."""
        return self.urls[0].rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Dataset:
    """A data set and what one needs to know before using it; `tasks` are the names of tasks drawn from it."""

    name: str
    title: str
    license: str
    citation: str
    source: str
    size: str
    classes: int
    images: int
    tasks: tuple[str, ...]
    layout: str
    steps: str = ""  # by hand, where it cannot be downloaded for you
    archives: tuple[Archive, ...] = ()
    images_per_class: int | None = None  # None: classes differ

    def folder(self, root: Path | str | None = None) -> Path:
        """Return where the data set lies, or should lie, below the data root."""
        return data_root(root) / self.name


def data_root(root: Path | str | None = None) -> Path:
    """Return `root`, or the environment's MLKIT_DATA, or ~/.cache/mlkit."""
    return Path(root or os.environ.get("MLKIT_DATA") or "~/.cache/mlkit").expanduser()


_OMNIGLOT = "https://github.com/brendenlake/omniglot/raw/master/python/"
_OMNIGLOT_MIRROR = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"

# Checksums are those that TensorFlow Datasets publishes for the same addresses (url_checksums/).
CATALOGUE = (
    Dataset(
        name="glyphs",
        title="Made-up characters of a few strokes, 28 x 28",
        license="MIT, as this library",
        citation="this library",
        source="drawn when first used",
        size="nothing to download",
        classes=1000,
        images=20_000,
        images_per_class=20,
        tasks=("glyphs",),
        layout="none: there are no files",
    ),
    Dataset(
        name="omniglot",
        title="Omniglot: 1,623 handwritten characters of 50 alphabets, 105 x 105",
        license="MIT",
        citation="Lake, Salakhutdinov, Tenenbaum: Human-level concept learning through probabilistic program "
        "induction, Science 350, 2015",
        source="https://github.com/brendenlake/omniglot",
        size="16 MB",
        classes=1623,
        images=32_460,
        images_per_class=20,
        tasks=("omniglot", "omniglot_background"),
        layout="images_background/<alphabet>/<character>/<image>.png and images_evaluation/ likewise",
        archives=(
            Archive(
                (_OMNIGLOT + "images_background.zip", _OMNIGLOT_MIRROR + "images_background.zip"),
                9_464_212,
                "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
                "images_background",
            ),
            Archive(
                (_OMNIGLOT + "images_evaluation.zip", _OMNIGLOT_MIRROR + "images_evaluation.zip"),
                6_462_886,
                "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
                "images_evaluation",
            ),
        ),
    ),
    Dataset(
        name="cifar100",
        title="CIFAR-100: 100 kinds of objects, 32 x 32 in color; holds CIFAR-FS and FC100",
        license="none stated; academic use, cite the report",
        citation="Krizhevsky: Learning multiple layers of features from tiny images, 2009. Splits: Bertinetto et al., "
        "ICLR 2019 (CIFAR-FS); Oreshkin et al., NeurIPS 2018 (FC100)",
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        size="169 MB",
        classes=100,
        images=60_000,
        images_per_class=600,
        tasks=("cifar_fs", "fc100"),
        layout="cifar-100-binary/{train.bin,test.bin,fine_label_names.txt}, or <class>/<image>.png",
        archives=(
            Archive(
                (
                    "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                    "http://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                ),
                168_513_733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                "cifar-100-binary",
            ),
        ),
    ),
    Dataset(
        name="mini_imagenet",
        title="miniImageNet: 100 classes of ImageNet, 84 x 84, split of Ravi and Larochelle",
        license="ImageNet terms of access: research and teaching, not to be passed on",
        citation="Vinyals et al.: Matching networks for one shot learning, NeurIPS 2016; Ravi, Larochelle: "
        "Optimization as a model for few-shot learning, ICLR 2017",
        source="https://image-net.org/download.php",
        size="about 3 GB from the original images, 0.3 GB at 84 x 84",
        classes=100,
        images=60_000,
        images_per_class=600,
        tasks=("mini_imagenet",),
        layout="<synset>/<image>.jpg, or {train,val,test}/<synset>/<image>.jpg, or images/<synset><number>.jpg",
        steps="1. Accept the terms on image-net.org and fetch the ILSVRC 2012 training images, or ask your institution "
        "for its copy of miniImageNet.\n2. Keep the images that Ravi and Larochelle list in train.csv, val.csv and "
        "test.csv (github.com/twitter-research/meta-learning-lstm, data/miniImagenet): 600 of each of 100 synsets.\n"
        "3. Put them there as {layout}. Any size: they are resized to 84 x 84 when first read.",
    ),
    Dataset(
        name="cub",
        title="Caltech-UCSD Birds 200-2011: 200 kinds of birds, resized to 84 x 84",
        license="images belong to their photographers; research and teaching, not commercial",
        citation="Wah, Branson, Welinder, Perona, Belongie: The Caltech-UCSD Birds-200-2011 dataset, 2011",
        source="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        size="1.1 GB",
        classes=200,
        images=11_788,
        tasks=("cub", "cub_100_50_50"),
        layout="CUB_200_2011/images/<class>/<image>.jpg, or images/<class>/..., or <class>/...",
        steps="1. Fetch CUB_200_2011.tgz from the page of the data set.\n2. Unpack it there: {layout}.",
    ),
)

_BY_HAND = "1. Fetch it from the page of the data set.\n2. Lay it out there as {layout}."

# Pictures with masks; `tasks` are the names that `SegmentationSpec` takes, `images` counts pictures.
SEGMENTATION = (
    Dataset(
        name="shapes",
        title="Made-up textured objects among others, with masks, painted at any size",
        license="MIT, as this library",
        citation="this library",
        source="painted when first used",
        size="nothing to download",
        classes=1000,
        images=10_000,
        images_per_class=10,
        tasks=("shapes",),
        layout="none: there are no files",
    ),
    Dataset(
        name="fss1000",
        title="FSS-1000: 1,000 classes of objects with masks, 224 x 224",
        license="research use; the images belong to their owners",
        citation="Li, Wei, Chen, Tai, Tang: FSS-1000: a 1000-class dataset for few-shot segmentation, CVPR 2020",
        source="https://github.com/HKUSTCV/FSS-1000",
        size="0.7 GB",
        classes=1000,
        images=10_000,
        images_per_class=10,
        tasks=("fss1000",),
        layout="fewshot_data/<class>/<1..10>.jpg with masks <1..10>.png, or <class>/...",
        steps=_BY_HAND,
    ),
    Dataset(
        name="voc",
        title="PASCAL VOC 2012 with the masks of SBD: 20 classes; holds PASCAL-5i",
        license="research only, not to be passed on",
        citation="Everingham et al.: The PASCAL visual object classes challenge, IJCV 2010; Hariharan et al.: Semantic "
        "contours from inverse detectors, ICCV 2011; folds: Shaban et al., BMVC 2017",
        source="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        size="2 GB",
        classes=20,
        images=12_031,
        tasks=tuple(f"pascal_5i_{fold}" for fold in range(4)),
        layout="JPEGImages/<picture>.jpg with SegmentationClassAug/<picture>.png (0 background, 1..20, 255 ignored), "
        "also below VOCdevkit/VOC2012",
        steps=_BY_HAND,
    ),
    Dataset(
        name="ccp",
        title="Clothing Co-Parsing: 1,004 photos with 58 tags of clothing",
        license="Apache-2.0",
        citation="Yang, Luo, Lin: Clothing co-parsing by joint image segmentation and labeling, CVPR 2014",
        source="https://github.com/bearpaw/clothing-co-parsing",
        size="60 MB",
        classes=58,
        images=1004,
        tasks=("ccp",),
        layout="photos/<number>.jpg with masks/<number>.png, whose pixels count the lines of labels.txt from 0",
        steps="1. Fetch the repository.\n2. Lay it out there as {layout}. Save the matrix `groundtruth` of each file "
        "of annotations/pixel-level as the PNG, and the names in label_list.mat as labels.txt.",
    ),
    Dataset(
        name="eth80",
        title="ETH-80: 80 objects of 8 kinds on a plain background, with masks",
        license="research use; cite the paper",
        citation="Leibe, Schiele: Analyzing appearance and contour based methods for object categorization, CVPR 2003",
        source="https://github.com/Kai-Xuan/ETH-80",
        size="20 MB",
        classes=80,
        images=800,
        images_per_class=10,
        tasks=("eth80",),
        layout="<object>/<1..10>.jpg with masks <1..10>.png; objects are called apple01 .. tomato10",
        steps=_BY_HAND + " Ten views of each object, as many as a class of FSS-1000 has.",
    ),
)


def find(name: str) -> Dataset:
    """Return the data set called `name`, or the one that the tasks called `name` are drawn from.

    Raises:
        ValueError: There is none.
    """
    for dataset in (*CATALOGUE, *SEGMENTATION):
        if name == dataset.name or name in dataset.tasks:
            return dataset
    names = sorted({name for dataset in (*CATALOGUE, *SEGMENTATION) for name in (dataset.name, *dataset.tasks)})
    raise ValueError(
        f"expected a data set of {', '.join(names)}; got {name!r}; {nearest(name, names)}see `mlkit data list`"
    )


def how_to_get(dataset: Dataset, root: Path | str | None = None) -> str:
    """Say in a few lines where a data set is expected, in which layout, and how to get it."""
    folder = dataset.folder(root)
    lines = [f"expected {dataset.title}", f"in {folder}", f"as {dataset.layout}."]
    if dataset.archives:
        lines.append(f"Run `mlkit data get {dataset.name}` ({dataset.size}), or set MLKIT_DATA to the folder above it.")
    else:
        lines.append(f"By hand ({dataset.license}; {dataset.source}):")
        lines.append(dataset.steps.format(layout=dataset.layout))
    return "\n".join(lines)
