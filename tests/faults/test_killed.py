"""What is lost when a training, its driver or the build of an environment is killed, and when two drivers meet."""

import shutil
import signal

from breaking import RUN, SLOW, assert_same_scores, partials, wait_for

TARGET = f"{SLOW}/scores.parquet"


def log_of(project):
    return (project.folder / SLOW.replace("results", "results/logs") / "train.log").read_text()


def caught_training(project):
    """Starts the run anew without the slow chain; returns the driver and the training, which has a checkpoint."""
    shutil.rmtree(project.folder / SLOW)
    driver = project.start(TARGET, *RUN)
    training = wait_for(lambda: project.jobs("train"), "a training")[0]
    wait_for((project.folder / SLOW / "resume/state.pt").exists, "a checkpoint")
    return driver, training


def test_a_killed_training_resumes_and_ends_with_the_same_scores(project, finished):
    driver, training = caught_training(project)
    training.send_signal(signal.SIGKILL)
    output, _ = driver.communicate()
    assert driver.returncode != 0
    assert "Failed train" in output
    assert not (project.folder / SLOW / "model").exists()
    project.run(TARGET)
    assert "resumed at step" in log_of(project)
    assert_same_scores(project.scores(), finished.scores())
    assert not partials(project)


def test_after_a_killed_driver_unlocking_goes_on_where_it_was(project, finished):
    before = project.times()
    driver, training = caught_training(project)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert training.is_running(), "the job lives on, without a driver"
    refused = project.run(TARGET, check=False)
    assert refused.returncode != 0
    assert "--unlock" in refused.stdout
    project.snakemake("--unlock")
    project.run(TARGET)
    assert_same_scores(project.scores(), finished.scores())
    if training.is_running():
        training.wait()
    after = project.times()
    kept = [name for name in before if not name.startswith(SLOW)]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert "Nothing to be done" in project.snakemake(TARGET, "-n").stdout


def test_a_second_driver_is_refused_and_the_first_ends_well(project, finished):
    driver, _ = caught_training(project)
    second = project.run(TARGET, check=False)
    assert second.returncode != 0
    assert "Directory cannot be locked" in second.stdout
    output, _ = driver.communicate()
    assert driver.returncode == 0, output
    assert_same_scores(project.scores(), finished.scores())
