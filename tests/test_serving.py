"""One process of one role: what it starts, and what it leaves to others."""

from __future__ import annotations

from pathlib import Path

import pytest

from pileus.http.server import listening, public_url
from pileus.serving import ControlProcess, Place
from pileus.settings import Api, Settings


@pytest.mark.parametrize(("faces", "keeps"), [(("identity", "compute"), False), (("identity", "image"), True)])
async def test_an_api_without_the_image_face_leaves_images_alone(tmp_path: Path, faces: tuple[str, ...], keeps: bool) -> None:
    """Its folder is another than the one that uploads go to: what is not in there is not cut off, nor missing."""
    settings = Settings(state=str(tmp_path), api=Api(listen="127.0.0.1:0"))
    with listening(settings.api.listen) as listener:
        process = ControlProcess(settings, "api", Place(), base_url=public_url(listener), listener=listener, faces=faces)
        try:
            await process.start()
            assert (tmp_path / "images").exists() == keeps
        finally:
            await process.close()
