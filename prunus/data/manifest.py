"""What was published: names, sizes, checksums and addresses of the canonical files.

A file's md5 is that of its uncompressed content, for distributors compress anew; an archive's is its own.
"""

from prunus.data.files import Archive, File, Layout, Published

_IDX_SIZES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}


def _idx(name: str, folders: list[str], urls: list[str], md5: list[str], gz_md5: list[str]) -> Published:
    """Four IDX files, each downloaded by itself; checksums in the order of ``_IDX_SIZES``."""
    files = tuple(File(file, size, raw) for (file, size), raw in zip(_IDX_SIZES.items(), md5, strict=True))
    archives = tuple(
        Archive(tuple(f"{url}/{file.name}.gz" for url in urls), gz, (file.name,))
        for file, gz in zip(files, gz_md5, strict=True)
    )
    return Published(name, tuple(Layout(folder, files) for folder in folders), archives)


def _cifar(name: str, binary: Layout, python: Layout, archive: str, md5: str) -> Published:
    """Both versions are read; the binary one is downloaded."""
    homes = ("https://www.cs.toronto.edu/~kriz", "https://cave.cs.toronto.edu/kriz")
    files = tuple(file.name for file in binary.files)
    return Published(name, (binary, python), (Archive(tuple(f"{home}/{archive}" for home in homes), md5, files),))


_MNIST = _idx(
    "mnist",
    folders=["mnist", "MNIST/raw"],
    urls=["https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"],
    md5=[
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ],
    gz_md5=[
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ],
)

_FASHION_MNIST = _idx(
    "fashion-mnist",
    folders=["fashion-mnist", "FashionMNIST/raw"],
    urls=[
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    ],
    md5=[
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ],
    gz_md5=[
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ],
)

_CIFAR10 = _cifar(
    "cifar10",
    Layout(
        "cifar-10-batches-bin",
        (
            File("data_batch_1.bin", 30_730_000, "5dd7e06a14cb22eb9f671a540d1b7c25"),
            File("data_batch_2.bin", 30_730_000, "5ea93a67294ea407fff1d09f752e9692"),
            File("data_batch_3.bin", 30_730_000, "942cd6a4bcdd0dd3c604fbe906cb4421"),
            File("data_batch_4.bin", 30_730_000, "ae636b3ba5c66a11e91e8cb52e771fcb"),
            File("data_batch_5.bin", 30_730_000, "53f37980c15c3d472c316c40844f3f0d"),
            File("test_batch.bin", 30_730_000, "803d5f7f4d78ea53de84dbe85f74fb6d"),
        ),
    ),
    Layout(
        "cifar-10-batches-py",
        (
            File("data_batch_1", 31_035_704, "c99cafc152244af753f735de768cd75f"),
            File("data_batch_2", 31_035_320, "d4bba439e000b95fd0a9bffe97cbabec"),
            File("data_batch_3", 31_035_999, "54ebc095f3ab1f0389bbae665268c751"),
            File("data_batch_4", 31_035_696, "634d18415352ddfa80567beed471001a"),
            File("data_batch_5", 31_035_623, "482c414d41f54cd18b22e5b47cb7c3cb"),
            File("test_batch", 31_035_526, "40351d587109b95175f43aff81a1287e"),
        ),
    ),
    archive="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
)

_CIFAR100 = _cifar(
    "cifar100",
    Layout(
        "cifar-100-binary",
        (
            File("train.bin", 153_700_000, "6172c7755cfe09b2fe270c85cebc1b15"),
            File("test.bin", 30_740_000, "4499cfba6c016c1be1438163640a0898"),
        ),
    ),
    Layout(
        "cifar-100-python",
        (
            File("train", 155_249_918, "16019d7e3df5f24257cddd939b257f8d"),
            File("test", 31_049_907, "f0ef6b0ae62326f3e7ffdfab6717acfc"),
        ),
    ),
    archive="cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
)

PUBLISHED: dict[str, Published] = {
    published.name: published for published in (_MNIST, _FASHION_MNIST, _CIFAR10, _CIFAR100)
}
