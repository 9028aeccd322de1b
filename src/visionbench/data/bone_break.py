"""Bone Break."""

from typing import Any

from visionbench.data.image_folder import ImageFolder


class BoneBreak(ImageFolder):
    """1,129 X-rays of broken bones, by the kind of fracture.

    - Images: RGB JPEG files whose longer side has 640 pixels, scaled until they cover 224 x 224 pixels and cropped, the
      size that networks with ImageNet weights were trained on; `statistics: imagenet` normalizes them for such weights.
    - Classes: ten kinds of fractures, such as Greenstick fracture, 68 to 137 training and 9 to 19 test images each.
    - Split: that of the folders, 989 for training and 140 for test, in which one accuracy has a 95 % interval of about
      12 points; `data verify BoneBreak` finds nearly equal images across them. Validation is cut from the 989.
      `pool: true` combines all 1,129, for example for five folds.
    - Source: "Bone Break Classification Image Dataset" on Kaggle. License: that of its page.
    - Files: FOLDER is Kaggle's data set "Bone Break Classification Image Dataset", unpacked, with images in
      train/CLASS and test/CLASS, or in CLASS/Train and CLASS/Test.

    Args:
        source: Folder that holds the images; read only. By default the one that was prepared last.
        size: Side of the images in pixels, or [height, width].
    """

    title = "Bone Break"
    named = True

    def __init__(self, source: str | None = None, size: int | list[int] = 224, **kwargs: Any) -> None:
        super().__init__(source or "", size, **kwargs)
