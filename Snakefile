# A plan as a graph of papermill runs: what is done is skipped, one machine or a cluster.
#   snakemake --cores all demo            # or sample, thesis: any file of params/plans/
#   snakemake --cores 1 run --config notebook=02_zero_shot dataset=demo backbone=demo recipe=default
# A run is done when its manifest.json is there and what decides its content (parameters, data,
# weights, code) has not changed: a small file holds the key of that, and is written only when it
# changes. Other file times do not count.
import functools
import json
import shlex
import sys

from clipfh_lib import files, params, plans, runs
from clipfh_lib.data import catalogues
from clipfh_lib.reports import photographs

OUTPUTS = config.get("outputs", "outputs")
COMPARE = "20_compare"
TRAINS = {
    "00_demo_clip", "03_fine_tune", "04_clip_reid_prompts", "05_clip_reid_encoder", "06_prompt_sg",
    "07_joint_image_text", "08_text_to_image", "09_mba_net"
}
PLANS = params.names("plans")
try:
    CORES = workflow.cores or 1
except Exception:  # submitting to a cluster: each job has its own machine
    CORES = 1
known = {}  # folder -> Job, of the plans read so far
absent = {}  # data set -> why it is not there


def relative(folder):
    inside = folder.is_relative_to(files.project())
    return (folder.relative_to(files.project()) if inside else folder).as_posix()


@functools.cache  # what the key of a run depends on stays while this process lives
def jobs_of(plan):
    made = [single()] if plan == "run" else plans.jobs(plan, OUTPUTS)
    known.update({relative(job.folder): job for job in made})
    return made


def single():
    given = {key: value for key, value in config.items() if key != "outputs"}
    if "notebook" not in given or "dataset" not in given:
        raise files.InputError("run needs --config notebook=… dataset=…, e.g. notebook=02_zero_shot")
    given["overrides"] = params.flat(given.get("overrides"))
    return plans.job(params.validate(plans.Cell, given, dict.fromkeys(given, "--config")), OUTPUTS)


def job_at(folder):
    """The run of a folder; in a cluster's job the plans are read until one has it."""
    for plan in [*PLANS, "run"]:
        if folder not in known and (plan != "run" or "notebook" in config):
            jobs_of(plan)
    return known[folder]


def with_data(plan):
    """The runs whose data sets are there, also of what they need; the others' go to `absent`."""
    jobs = jobs_of(plan)
    reasons = {job.folder: catalogues.missing(job.params.data) for job in jobs}
    absent.update({job.cell.dataset: reasons[job.folder] for job in jobs if reasons[job.folder]})
    return [job for job in jobs if not any(reasons[each] for each in [job.folder, *job.needs])]


def manifests(jobs):
    return [f"{relative(job.folder)}/manifest.json" for job in jobs]


def wanted(plan):
    there = with_data(plan)
    lost = len(there) < len(jobs_of(plan))
    compare = relative(runs.folder(COMPARE, plan, OUTPUTS))
    last = [f"{compare}/manifest.json"] if there and plan != "run" else manifests(there)
    return [*last, *([f"{relative(files.resolve(OUTPUTS))}/{plan}/no_data"] if lost else [])]


@functools.cache
def key_of(folder):
    job = job_at(folder)
    needs = [key_of(relative(need)) for need in job.needs]
    # weights that the plan itself trains are known by the key of their run, before and after it
    weights = "of the plan" if plans.weights_folder(job.params) in job.needs else None
    data = [catalogues.digest(job.params.data), *needs, *prompts_of(job)]
    return runs.key(job.cell.notebook, job.params, data, weights)


def keys_of(plan):
    return sorted(key_of(relative(job.folder)) for job in with_data(plan))


def said_of(plan):
    """What decides a report beside its runs: the run to compare with, the author's words, permissions."""
    path = files.project() / "params" / "plans" / f"{plan}.md"
    may = [photographs.allowed(job.params.model_dump(mode="json")) for job in with_data(plan)]
    return [str(plans.against(plan, OUTPUTS)), files.sha256(path) if path.is_file() else "", str(may)]


def prompts_of(job):
    """What decides the learned prompts that a second stage reads or makes, unless a need does."""
    named, first = plans.prompts_folder(job.params), plans.first_stage(job, OUTPUTS)
    if named is not None and named not in job.needs:
        return [str(runs.manifest(named).get("prompts_sha256"))]
    if first is None or first.folder in job.needs:
        return []
    return [runs.key(first.cell.notebook, first.params, catalogues.digest(first.params.data))]


def written(folder, key):
    """A file that holds a run's key, written anew only when the key changes."""
    path = files.cache() / "keys" / f"{files.digest(folder)[:16]}.txt"
    if not path.is_file() or path.read_text() != key:
        files.write_text(path, key)
    return relative(path)


def needed(base, notebook, run):
    return by_content(job_at(f"{base}/{notebook}/{run}").needs)


def by_content(folders):
    """Their manifests; that of a split, which an export alone may write anew, by key and not time."""
    paths = [(folder.parent.name, f"{relative(folder)}/manifest.json") for folder in folders]
    return [ancient(path) if name == "01_prepare_data" else path for name, path in paths]


def words(content):
    return json.dumps(content, sort_keys=True)


PAPERMILL = (
    f"{shlex.quote(sys.executable)} -m papermill notebooks/{{params.notebook}}.ipynb {{log:q}} -k python3"
    " --no-progress-bar -y {params.arguments:q} > {log:q}.txt 2>&1"
    " && rm {log:q}.txt || {{ grep -v '^\\s*$' {log:q}.txt | tail -n 1; exit 1; }}"
)


wildcard_constraints:
    base=".+",
    run="[^/]+",


for plan in [*PLANS, "run"]:

    rule:
        name: plan
        input:
            lambda wildcards, plan=plan: wanted(plan),


for notebook in params.NOTEBOOKS:

    rule:
        name: notebook[3:]
        input:
            lambda w, n=notebook: needed(w.base, n, w.run),
            key=lambda w, n=notebook: written(
                f"{w.base}/{n}/{w.run}", key_of(f"{w.base}/{n}/{w.run}")
            ),
        output:
            f"{{base}}/{notebook}/{{run}}/manifest.json",
        log:
            f"{{base}}/{notebook}/{{run}}/notebook.ipynb",
        params:
            notebook=notebook,
            arguments=lambda w, n=notebook: words(
                plans.arguments(job_at(f"{w.base}/{n}/{w.run}"), OUTPUTS)
            ),
        threads: CORES if notebook in TRAINS else max(1, CORES // 2)
        shell:
            PAPERMILL


rule compare:
    input:
        lambda w: by_content(job.folder for job in with_data(w.plan)),
        key=lambda w: written(
            f"{w.base}/{w.plan}/{COMPARE}",
            runs.key(COMPARE, w.plan, [*keys_of(w.plan), *said_of(w.plan)]),
        ),
    output:
        f"{{base}}/{{plan}}/{COMPARE}/manifest.json",
    log:
        f"{{base}}/{{plan}}/{COMPARE}/notebook.ipynb",
    params:
        notebook=COMPARE,
        arguments=lambda w: words({"plan": w.plan, "outputs": str(OUTPUTS)}),
        folder=f"{{base}}/{{plan}}/{COMPARE}",
    shell:
        f"{PAPERMILL} && cat {{params.folder:q}}/comparison.md"
        " && echo tables and figures: {params.folder:q}"


rule no_data:
    output:
        "{base}/{plan}/no_data",
    shell:
        "exit 1  # what is missing is listed at the end"


for plan in {*PLANS, "run"} & {*sys.argv}:  # a mistake stops here, in one line
    try:
        wanted(plan)
        for job in with_data(plan):
            key_of(relative(job.folder))
    except files.InputError as error:
        sys.exit(f"{error}")


onerror:
    for dataset, reason in absent.items():
        print(f"no data: {dataset}: {reason}")
    for folder in known:
        path = files.resolve(folder)
        if (path / "notebook.ipynb").is_file() and not runs.is_complete(path):
            print(f"not complete: {folder} (its notebook.ipynb shows where it stopped)")
    for plan in {*PLANS} & {*sys.argv}:
        print(f"the others side by side: papermill notebooks/{COMPARE}.ipynb out.ipynb -p plan {plan}")
