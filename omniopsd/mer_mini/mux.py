"""The mp4 container: H.264 video with an AAC track of the same sound as the wav file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from omniopsd.mer_mini.face import FPS
from omniopsd.mer_mini.voice import RATE


def write_mp4(path: Path, frames: np.ndarray, audio: np.ndarray) -> None:
    """Write frames uint8 [F,H,W,3] at 8 fps and audio float32 [N] at 16 kHz, one thread, no time stamps."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "14"})
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt, video.thread_count = "yuv420p", 1
        sound = container.add_stream("aac", rate=RATE, layout="mono")
        sound.bit_rate, sound.codec_context.thread_count = 64_000, 1
        for index, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(picture))
        wave = av.AudioFrame.from_ndarray(audio[None, :], format="fltp", layout="mono")
        wave.sample_rate, wave.pts, wave.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(sound.encode(wave))
        container.mux(video.encode())
        container.mux(sound.encode())
