import json
import subprocess
import sys

import numpy as np
import pretty_midi
import pytest
import soundfile
import torch

from sonido_bench.cli import main
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.launch import audio_stream
from sonido_bench.launch.prediction import predict
from sonido_bench.launch.trained import load_trained
from sonido_bench.nn.separation import Chunking, separate
from tests.launch.trained_runs import CHROMA, RATE, make_run

SOURCES = {"umx": ["vocals", "drums", "bass", "other"], "htdemucs": ["drums", "bass", "other", "vocals"]}
STEMS = ("vocals", "drums", "bass", "other")
separators = pytest.mark.parametrize("name", SOURCES)


def noise(seconds=0.8, rate=RATE, channels=2, seed=0):
    samples = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    return samples.astype(np.float32)


def write(path, samples, rate=RATE, subtype="FLOAT"):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def read(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    extractors = {"umx": CHROMA, "mix": CHROMA, "htdemucs": CHROMA}
    names = ("umx", "htdemucs", "mix", "tags", "notes")
    return {name: load_trained(make_run(root / name, name, extractors.get(name))) for name in names}


def short_chunks(task, monkeypatch, seconds=1.0):
    monkeypatch.setattr(type(task), "chunking", Chunking(round(seconds * RATE)))
    return task


@separators
def test_one_chunk_is_separated_as_the_task_does(tasks, name, tmp_path):
    task, seconds = tasks[name], 1.0
    path = write(tmp_path / "song.wav", noise(seconds))
    written = predict(task, path, tmp_path / "out")
    assert written == [tmp_path / "out" / "song" / f"{stem}.wav" for stem in SOURCES[name]]
    estimates = task.estimate(torch.from_numpy(noise(seconds).T.copy())[None])[0]
    assert estimates.abs().max() > 1e-4
    for file, estimate in zip(written, estimates, strict=True):
        np.testing.assert_array_equal(read(file), estimate.numpy())


@separators
def test_long_recordings_are_cut_joined_and_reported(tasks, name, tmp_path, monkeypatch):
    task = short_chunks(tasks[name], monkeypatch)
    monkeypatch.setattr(audio_stream, "_BLOCK", 30_000)
    audio, steps = noise(2.4), []
    written = predict(task, write(tmp_path / "song.wav", audio), tmp_path, lambda *step: steps.append(step))
    expected = separate(task.estimate, torch.from_numpy(audio.T.copy()), task.chunking)
    for file, estimate in zip(written, expected, strict=True):
        np.testing.assert_allclose(read(file), estimate.numpy(), atol=1e-5)
    assert steps[-1] == (len(audio), len(audio))
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert len(steps) > 2


@pytest.mark.parametrize(
    ("rate", "channels", "subtype", "seconds"),
    [
        (44_100, 1, "PCM_16", 0.5),
        (8_000, 2, "PCM_24", 2.6),
        (96_000, 2, "FLOAT", 1.7),
        (48_000, 1, "PCM_U8", 1.3),
        (44_100, 2, "PCM_16", 0.1),
        (44_100, 2, "PCM_16", 3 / 44_100),
        (8_000, 1, "PCM_16", 1 / 8_000),
    ],
)
@separators
def test_results_have_the_format_and_length_of_the_input(
    tasks, name, rate, channels, subtype, seconds, tmp_path, monkeypatch
):
    audio = noise(seconds, rate, channels)
    path = write(tmp_path / "song.wav", audio, rate, subtype)
    for file in predict(short_chunks(tasks[name], monkeypatch), path, tmp_path / "out"):
        info = soundfile.info(file)
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (rate, channels, subtype, len(audio))
        assert np.isfinite(read(file)).all()


def test_mp3_is_separated(tasks, tmp_path):
    path = tmp_path / "song.mp3"
    soundfile.write(path, noise(1.0), RATE)
    written = predict(tasks["umx"], path, tmp_path)
    assert {soundfile.info(file).frames for file in written} == {soundfile.info(path).frames}
    assert {soundfile.info(file).subtype for file in written} == {"PCM_16"}


def test_resampled_estimates_keep_their_place(tmp_path, tasks, monkeypatch):
    """A separator that gives back the mixture shows that rates, blocks and joins leave audio as it was."""
    task = short_chunks(tasks["umx"], monkeypatch)
    monkeypatch.setattr(task, "estimate", lambda audio: audio[:, None].repeat(1, 4, 1, 1))
    monkeypatch.setattr(audio_stream, "_BLOCK", 10_000)
    time = np.arange(round(3.7 * 48_000))[:, None] / 48_000
    audio = 0.3 * np.sin(2 * np.pi * (200 * time + 400 * time**2)) * [[1.0, -0.5]]
    path = write(tmp_path / "song.wav", audio, 48_000)
    found = read(predict(task, path, tmp_path / "out")[0])
    assert np.abs(found - audio.T)[:, 200:-200].max() < 1e-3


@pytest.mark.parametrize("name", ["umx", "tags", "notes"])
@pytest.mark.parametrize("bad", ["empty", "zero", "text", "nan", "inf", "cut", "none"])
def test_bad_audio_is_one_clear_error_and_leaves_nothing(tasks, name, bad, tmp_path):
    path = tmp_path / "song.wav"
    samples = noise(0.5)
    if bad == "empty":
        samples = samples[:0]
    if bad in ("nan", "inf"):
        samples[9000, 1] = float(bad)
    if bad != "none":
        write(path, samples)
    if bad == "zero":
        path.write_bytes(b"")
    if bad == "text":
        path.write_text("la la la")
    if bad == "cut":
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match=r"song\.wav") as found:
        predict(tasks[name], path, tmp_path / "out")
    assert len(str(found.value).splitlines()) == 1
    assert not list(tmp_path.glob("out/**/*.*"))


def test_six_channels_are_refused(tasks, tmp_path):
    with pytest.raises(DataError, match="expected 1 or 2 channels, found 6"):
        predict(tasks["umx"], write(tmp_path / "song.wav", noise(channels=6)), tmp_path / "out")


def folder_of_stems(folder, names=STEMS, seconds=1.0, **options):
    for seed, name in enumerate(names):
        write(folder / f"{name}.wav", noise(seconds, seed=seed, **options), options.get("rate", RATE))
    return folder


def test_stems_of_one_chunk_are_mixed_as_the_task_does(tasks, tmp_path):
    folder = folder_of_stems(tmp_path / "my song")
    write(folder / "mixture.wav", noise())  # it may lie there
    (written,) = predict(tasks["mix"], folder, tmp_path / "out")
    assert written == tmp_path / "out" / "my song.wav"
    stems = torch.stack([torch.from_numpy(noise(1.0, seed=seed).T.copy()) for seed in range(4)])
    np.testing.assert_array_equal(read(written), tasks["mix"].estimate(stems[None])[0].numpy())


def test_stems_of_other_lengths_rates_and_channels_are_mixed(tasks, tmp_path, monkeypatch):
    """The mix has the length of the longest, the highest rate and the finest bit depth; an absent stem is silent."""
    task = short_chunks(tasks["mix"], monkeypatch)
    monkeypatch.setattr(audio_stream, "_BLOCK", 10_000)
    folder = tmp_path / "song"
    long, short = noise(2.7), noise(1.2, channels=1, seed=1)
    write(folder / "vocals.wav", long, subtype="PCM_16")
    write(folder / "bass.flac", short, subtype="PCM_24")
    (written,) = predict(task, folder, tmp_path)
    info = soundfile.info(written)
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (RATE, 2, "PCM_24", len(long))
    stems = torch.zeros(4, 2, len(long))
    stems[0] = torch.from_numpy(read(folder / "vocals.wav"))
    stems[2, :, : len(short)] = torch.from_numpy(read(folder / "bass.flac"))
    mixed = separate(lambda each: task.estimate(each.reshape(1, 4, 2, -1))[:, None], stems.flatten(0, 1), task.chunking)
    np.testing.assert_allclose(read(written), mixed[0].numpy(), atol=1e-5)
    write(folder / "drums.wav", noise(0.1, 96_000), 96_000)
    (written,) = predict(task, folder, tmp_path)
    assert (soundfile.info(written).samplerate, soundfile.info(written).frames) == (96_000, round(2.7 * 96_000))


def test_wrong_folders_are_refused(tasks, tmp_path):
    task = tasks["mix"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="an audio file for each of vocals, drums, bass, other, found none"):
        predict(task, tmp_path / "empty", tmp_path)
    folder = folder_of_stems(tmp_path / "song", ["vocal"])
    with pytest.raises(DataError, match=r"stems named vocals, .*, found vocal\.wav; rename"):
        predict(task, folder, tmp_path)
    (folder / "vocal.wav").rename(folder / "vocals.wav")
    write(folder / "drums.wav", noise(channels=5))
    with pytest.raises(DataError, match=r"drums\.wav: expected 1 or 2 channels, found 5"):
        predict(task, folder, tmp_path)
    write(folder / "drums.wav", noise() * np.nan)
    with pytest.raises(DataError, match=r"drums\.wav: expected finite samples"):
        predict(task, folder, tmp_path)
    with pytest.raises(ConfigError, match="takes a folder of stems"):
        predict(task, folder / "vocals.wav", tmp_path)
    with pytest.raises(ConfigError, match="takes an audio file"):
        predict(tasks["umx"], folder, tmp_path)


@pytest.mark.parametrize("seconds", [0.1, 1.0, 40.0])
def test_tags_and_notes(tasks, tmp_path, seconds):
    path = write(tmp_path / "song.wav", noise(seconds, 8000, 1), 8000)
    (tags,) = predict(tasks["tags"], path, tmp_path / "out")
    values = json.loads(tags.read_text())
    batch = {"clip": ["x"], "seconds": seconds, "sample_rate": 8000, "audio": torch.from_numpy(read(path))[None]}
    with torch.no_grad():
        expected = tasks["tags"].predict_step(batch, 0)["x"]
        notes = tasks["notes"].predict_step(batch, 0)["x"]
    assert values == pytest.approx(expected)
    assert sorted(values.values(), reverse=True) == list(values.values())
    (midi,) = predict(tasks["notes"], path, tmp_path / "out")
    assert midi == tmp_path / "out" / "song.mid"
    (piano,) = pretty_midi.PrettyMIDI(str(midi)).instruments or [pretty_midi.Instrument(0)]
    assert len(piano.notes) == len(notes)


def test_the_command_prints_what_it_wrote_and_a_mistake_is_one_line(tmp_path, capsys):
    run = make_run(tmp_path / "run", "umx")
    songs = [write(tmp_path / name / "song.wav", noise(0.2)) for name in ("a", "b")]
    other = write(tmp_path / "other.wav", noise(0.2))
    assert main(["predict", str(run), str(songs[0]), str(other), "-o", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [str(tmp_path / "out" / song / f"{stem}.wav") for song in ("song", "other") for stem in STEMS]
    for sources, message in (
        ([songs[0], songs[1]], "two of the recordings have the same name"),
        ([tmp_path / "none.wav"], "there is no file or folder"),
        ([tmp_path], "takes an audio file"),
    ):
        assert main(["predict", str(run), *map(str, sources), "-o", str(tmp_path / "more")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert not (tmp_path / "more").exists()


def test_what_fit_leaves_can_be_predicted_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"layers": 3, "growth": 4, "kernel_size": 5}
    data = {"target": "mix", "seconds": 1.5, "train_tracks": 2, "validation_tracks": 1, "test_tracks": 1}
    command = [
        "fit",
        "--model=sonido_bench.tasks.mix_wave_unet.MixWaveUNetTask",
        *(f"--model.init_args.{name}={value}" for name, value in sizes.items()),
        "--model.init_args.extractor=sonido_bench.foundation.chroma.Chroma",
        "--data=sonido_bench.datamodules.rendered_stems.RenderedStemsDataModule",
        *(f"--data.init_args.{name}={value}" for name, value in {**data, "root": "data", "batch_size": 2}.items()),
        "--trainer.max_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.accelerator=cpu",
        "--trainer.logger=lightning.pytorch.loggers.CSVLogger",
        "--trainer.logger.init_args.save_dir=fits",
    ]
    assert main(command) == 0
    folder = folder_of_stems(tmp_path / "song", seconds=0.3)
    run = next((tmp_path / "fits").rglob("config.yaml")).parent
    assert main(["predict", str(run), str(folder), "-o", "out"]) == 0
    assert soundfile.info("out/song.wav").frames == round(0.3 * RATE)


def test_memory_does_not_grow_with_length(tmp_path):
    """Four minutes of a song in less memory than they take."""
    code = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from sonido_bench.launch.prediction import predict\n"
        "from sonido_bench.launch.trained import load_trained\n"
        "from sonido_bench.nn.separation import Chunking\n"
        "task = load_trained(Path(sys.argv[1]))\n"
        "type(task).chunking = Chunking(5 * 44100)\n"
        "task.estimate = lambda audio: audio[:, None].expand(-1, 4, -1, -1)\n"
        "predict(task, Path(sys.argv[2]), Path(sys.argv[4]))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "predict(task, Path(sys.argv[3]), Path(sys.argv[4]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    run = make_run(tmp_path / "run", "umx")
    short, long = tmp_path / "short.wav", tmp_path / "long.wav"
    for path, minutes in ((short, 0.5), (long, 4)):
        with soundfile.SoundFile(path, "w", 48_000, 2, "PCM_16") as file:
            for _ in range(round(6 * minutes)):
                file.write(noise(10.0, 48_000))
    command = [sys.executable, "-c", code, str(run), str(short), str(long), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 100e6  # the long song is 92 MB of float32, its stems 369 MB
