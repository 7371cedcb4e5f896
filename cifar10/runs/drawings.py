"""Images that show where an evaluation is wrong, drawn with Pillow.

Each is WIDTH wide, because to that width TensorBoard's Images page scales every image, without smoothing.
"""

import functools
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH = 350  # pixels
FONT_SIZE = 12  # pixels
LINE = FONT_SIZE + 3  # pixels from one line of text to the next
MIN_NAMED_CELL = 10  # pixels; smaller cells of a matrix have no room for the name of their class
MIN_NUMBERED_CELL = 18  # pixels; nor for their number
GRID_COLUMNS = 3
GRID_GAP = 6  # pixels between two rows
ZOOM = 3  # screen pixels a pixel of the grid's images

BLACK, GREY, WHITE, GREEN, RED = (0, 0, 0), (160, 160, 160), (255, 255, 255), (0, 110, 40), (190, 0, 20)
FULL = np.array([8, 60, 130])  # the colour of 100 % in a matrix; 0 % is white


def png(image):
    """Returns an image as the bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def confusion_matrix(counts, class_names):
    """Draws a confusion matrix: a row a true class, a column a predicted one, cells in percent of their row.

    Args:
      counts: int [classes, classes]: counts[i, j] images of class i were taken for class j.
      class_names: one name a class; left out, as the numbers are, where there are too many classes for them.

    Returns:
      A PIL image, RGB, WIDTH wide.
    """
    classes = len(counts)
    font = _font()
    margin = min(80, max(int(font.getlength(name)) for name in class_names)) + 6
    cell = (WIDTH - margin) // classes
    named = cell >= MIN_NAMED_CELL
    if not named:
        margin = 6
        cell = max(1, (WIDTH - margin) // classes)
    top = 2 * LINE + (margin if named else 0)
    image = Image.new("RGB", (WIDTH, top + cell * classes + 4), WHITE)
    draw = ImageDraw.Draw(image)
    draw.text((2, 1), "row: true class, column: predicted class,", BLACK, font)
    draw.text((2, 1 + LINE), "in % of the row" if named else "white 0 % to blue 100 % of the row", BLACK, font)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # The root, because what is of interest, a few percent, would else be nearly white.
    colours = 255 - np.sqrt(shares)[:, :, np.newaxis] * (255 - FULL)
    cells = Image.fromarray(colours.round().astype(np.uint8))
    image.paste(cells.resize((cell * classes, cell * classes), Image.Resampling.NEAREST), (margin, top))
    draw.rectangle((margin - 1, top - 1, margin + cell * classes, top + cell * classes), outline=GREY)
    if not named:
        return image
    for i, name in enumerate(class_names):
        middle = i * cell + cell // 2
        label = _fit(name, margin - 6)
        draw.text((margin - 4, top + middle), label, BLACK, font, anchor="rm")
        upright = Image.new("RGB", (margin - 6, LINE), WHITE)
        ImageDraw.Draw(upright).text((0, LINE // 2), label, BLACK, font, anchor="lm")
        image.paste(upright.rotate(90, expand=True), (margin + middle - LINE // 2, top - margin + 2))
        for j, share in enumerate(shares[i]):
            if cell >= MIN_NUMBERED_CELL and share >= 0.01:
                colour = WHITE if share > 0.25 else BLACK
                centre = (margin + j * cell + cell // 2, top + middle)
                draw.text(centre, f"{100 * share:.0f}", colour, font, anchor="mm")
    return image


def mistakes(images, captions):
    """Draws images in a grid, each with two lines below it: of its true class, and of the predicted one.

    Args:
      images: uint8 [n, height, width, 3].
      captions: n pairs of texts.

    Returns:
      A PIL image, RGB, WIDTH wide.
    """
    _, height, width, _ = images.shape
    column, row = WIDTH // GRID_COLUMNS, ZOOM * height + 2 * LINE + GRID_GAP
    rows = -(-len(images) // GRID_COLUMNS)
    image = Image.new("RGB", (WIDTH, LINE + 3 + rows * row), WHITE)
    draw = ImageDraw.Draw(image)
    font = _font()
    draw.text((2, 1), "green: true class, red: predicted, probability", BLACK, font)
    for i, (pixels, lines) in enumerate(zip(images, captions, strict=True)):
        left, top = i % GRID_COLUMNS * column, LINE + 3 + i // GRID_COLUMNS * row
        zoomed = Image.fromarray(pixels).resize((ZOOM * width, ZOOM * height), Image.Resampling.NEAREST)
        image.paste(zoomed, (left, top))
        for line, (text, colour) in enumerate(zip(lines, (GREEN, RED), strict=True)):
            draw.text((left + 1, top + ZOOM * height + line * LINE), _fit(text, column - 4), colour, font)
    return image


@functools.cache
def _font():
    return ImageFont.load_default(FONT_SIZE)


def _fit(text, width):
    """Returns the text, its middle left out where it is wider than so many pixels."""
    font = _font()
    kept = len(text)
    shown = text
    while kept and font.getlength(shown) > width:
        kept -= 1
        shown = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
    return shown
