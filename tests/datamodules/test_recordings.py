import numpy as np
import pytest
import soundfile

from sonido_bench.datamodules.augmentation import Augmentation
from sonido_bench.datamodules.recordings import (
    AudioConfig,
    FolderAudio,
    FolderAudioConfig,
    RenderedAudio,
    RenderedAudioConfig,
    open_audio,
    read_track,
)
from sonido_bench.datamodules.rendering.dataset import RenderedConfig, prepare
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.files import sha256_file

RENDERED = {"seed": 3, "seconds": 1.0, "tracks": 3, "validation_tracks": 1}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    prepare(root, RenderedConfig(seed=3, seconds=1.0, train=0, validation=0, test=0, pretrain=2))
    return root


def write(path, seconds=1.0, rate=8000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    soundfile.write(path, rng.uniform(-0.5, 0.5, (round(seconds * rate), channels)), rate)


def test_music_is_rendered_when_it_is_read_as_prepare_would_have(prepared, tmp_path):
    source = RenderedAudio(RenderedAudioConfig(root=str(tmp_path), **RENDERED))
    assert source.training == ["pretrain-00000", "pretrain-00001"]
    assert source.validation == ["pretrain-00002"]
    assert not list(tmp_path.iterdir())
    clip = source.clip("pretrain-00001")
    assert clip.path == tmp_path / "pretrain" / "pretrain-00001.flac"
    assert clip.sha256 == sha256_file(prepared / "pretrain" / "pretrain-00001.flac")
    assert not (tmp_path / "pretrain" / "pretrain-00000.flac").exists()
    modified = clip.path.stat().st_mtime_ns
    assert source.clip("pretrain-00001") == clip
    assert clip.path.stat().st_mtime_ns == modified


def test_music_that_was_prepared_is_used_as_it_is(prepared):
    source = RenderedAudio(RenderedAudioConfig(root=str(prepared), **RENDERED))
    before = sorted(prepared.rglob("*"))
    assert len(read_track(source.clip("pretrain-00000"), 22_050, Augmentation())) == 22_050
    assert sorted(prepared.rglob("*")) == before


def test_music_of_another_seed_is_refused(prepared):
    source = RenderedAudio(RenderedAudioConfig(root=str(prepared), **(RENDERED | {"seed": 4})))
    with pytest.raises(DataError, match="choose another root"):
        source.clip("pretrain-00000")


def test_the_identity_tells_what_decides_the_audio(tmp_path):
    identities = {
        RenderedAudio(RenderedAudioConfig(root=str(tmp_path), **(RENDERED | change))).identity
        for change in ({}, {"seed": 4}, {"seconds": 2.0}, {"tracks": 4}, {"validation_tracks": 2})
    }
    assert len(identities) == 5
    assert RenderedAudio(RenderedAudioConfig(root="elsewhere", **RENDERED)).identity in identities


def test_a_folder_is_searched_through_and_bad_files_are_named_once(tmp_path, capsys):
    for name in ("a.wav", "deep/er/b.flac", "c.ogg", "d.mp3"):
        write(tmp_path / name)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "empty.flac").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no audio")
    whole = (tmp_path / "deep/er/b.flac").read_bytes()
    (tmp_path / "truncated.flac").write_bytes(whole[: len(whole) // 2])
    source = FolderAudio(FolderAudioConfig(str(tmp_path), validation_share=0.3))
    assert sorted([*source.training, *source.validation]) == ["a.wav", "c.ogg", "d.mp3", "deep/er/b.flac"]
    assert len(source.validation) == 1
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert all(name in warnings[0] for name in ("broken.wav", "empty.flac", "truncated.flac"))
    assert source.clip("deep/er/b.flac").seconds == pytest.approx(1.0)


def test_files_that_are_added_move_few_others_to_the_other_side(tmp_path):
    for index in range(20):
        write(tmp_path / f"{index}.wav", 0.1)
    before = FolderAudio(FolderAudioConfig(str(tmp_path), 0.25))
    write(tmp_path / "new.wav", 0.1)
    after = FolderAudio(FolderAudioConfig(str(tmp_path), 0.25))
    assert len(set(before.validation) ^ set(after.validation)) <= 2
    assert before.identity != after.identity


def test_a_folder_without_audio_is_refused(tmp_path):
    with pytest.raises(DataError, match="at least two readable audio files"):
        FolderAudio(FolderAudioConfig(str(tmp_path)))


def test_exactly_one_source_is_wanted(tmp_path):
    folder, rendered = FolderAudioConfig(str(tmp_path)), RenderedAudioConfig(str(tmp_path))
    assert isinstance(open_audio(AudioConfig(rendered=rendered)), RenderedAudio)
    for options in ({}, {"folder": folder, "rendered": rendered}):
        with pytest.raises(ConfigError, match="either `rendered` or `folder`"):
            AudioConfig(**options)
    with pytest.raises(ConfigError, match="validation_tracks"):
        RenderedAudioConfig(str(tmp_path), tracks=4, validation_tracks=4)
    with pytest.raises(ConfigError, match="validation_share"):
        FolderAudioConfig(str(tmp_path), 0.0)
