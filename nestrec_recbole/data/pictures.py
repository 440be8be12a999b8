"""Which image files are read; the others that Pillow knows are never opened, for some start other programs."""

TYPES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
SUFFIXES = (*TYPES.values(), ".jpeg")
