"""Greek letters."""

from typing import Any, Literal

from visionbench.data.image_folder import ImageFolder


class GreekLetters(ImageFolder):
    """27 photographs of handwritten Greek letters, brought to the form of MNIST's digits.

    - Images: about 133 x 133 pixels, a dark letter on white; turned gray, scaled by 36/128 about the center with the
      nearest pixels, cropped to 28 x 28 and inverted, so that a network trained on MNIST can read them.
    - Classes: alpha, beta and gamma, nine images each.
    - Split: none of its own; test and validation are cut from the 27, `folds: 27` leaves one out, and with
      `test_size: 0` and `val_size: 0` all of them are trained on.
    - Source: material of the course CS 6140, not published. License: none is stated.
    - Files: FOLDER holds the folders alpha, beta and gamma with one image of a letter per file, dark on white, of about
      133 x 133 pixels; the 27 photographs are course material (CS 6140) and not published, but your own will do.

    Args:
        source: Folder that holds the images; read only. By default the one that was prepared last.
        size: Side of the images in pixels, or [height, width].
        channels: Number of channels: 3 for color, 1 for gray.
        resize: Way to reach the size: `none` crops the center after scaling by `scale`; `crop` and `squash` as in
            `ImageFolder`, with `scale` 1.
        scale: Zoom factor about the center, applied before cropping, with the nearest pixels.
        invert: Whether black and white are exchanged.
    """

    title = "Greek letters"
    named = True

    def __init__(
        self,
        source: str | None = None,
        size: int | list[int] = 28,
        channels: Literal[1, 3] = 1,
        resize: Literal["crop", "squash", "none"] = "none",
        scale: float = 36 / 128,
        invert: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(source or "", size, channels, resize, scale, invert, **kwargs)
