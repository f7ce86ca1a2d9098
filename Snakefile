# A plan as a graph of papermill runs: what is done is skipped, one machine or a cluster.
#   snakemake --cores all demo            # or sample, thesis: any file of params/plans/
#   snakemake --cores 1 run --config notebook=02_zero_shot dataset=demo backbone=demo recipe=default
# A run is done when its manifest.json is there and what decides its content (parameters, data,
# weights, code) has not changed; file times do not count (profiles/default).
import json
import sys

from clipfh_lib import files, params, plans, runs
from clipfh_lib.data import catalogues
from snakemake.exceptions import WorkflowError

OUTPUTS = config.get("outputs", "outputs")
COMPARE = "20_compare"
TRAINS = {"00_demo_clip"}
PLANS = params.names("plans")
known = {}  # folder -> Job, of the plans read so far


def relative(folder):
    inside = folder.is_relative_to(files.project())
    return (folder.relative_to(files.project()) if inside else folder).as_posix()


def jobs_of(plan):
    try:
        made = [single()] if plan == "run" else plans.jobs(plan, OUTPUTS)
    except files.InputError as error:
        raise WorkflowError(str(error)) from None
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
    """The runs whose data set is there, and a line for each one that is not."""
    missing = {}
    for job in jobs_of(plan):
        missing[relative(job.folder)] = catalogues.missing(job.params.data)
    there = [job for job in jobs_of(plan) if not missing[relative(job.folder)]]
    return there, {folder: reason for folder, reason in missing.items() if reason}


def manifests(jobs):
    return [f"{relative(job.folder)}/manifest.json" for job in jobs]


def wanted(plan):
    there, missing = with_data(plan)
    compare = relative(runs.folder(COMPARE, plan, OUTPUTS))
    last = [f"{compare}/manifest.json"] if there and plan != "run" else manifests(there)
    return [*last, *([f"{relative(files.resolve(OUTPUTS))}/{plan}/no_data"] if missing else [])]


def key_of(job):
    needs = [key_of(job_at(relative(folder))) for folder in job.needs]
    return runs.key(job.cell.notebook, job.params, [catalogues.digest(job.params.data), *needs])


def words(content):
    return json.dumps(content, sort_keys=True)


PAPERMILL = (
    f"{sys.executable} -m papermill notebooks/{{params.notebook}}.ipynb {{log:q}} -k python3"
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
            lambda w, n=notebook: [
                f"{relative(folder)}/manifest.json"
                for folder in job_at(f"{w.base}/{n}/{w.run}").needs
            ],
        output:
            f"{{base}}/{notebook}/{{run}}/manifest.json",
        log:
            f"{{base}}/{notebook}/{{run}}/notebook.ipynb",
        params:
            notebook=notebook,
            key=lambda w, n=notebook: key_of(job_at(f"{w.base}/{n}/{w.run}")),
            arguments=lambda w, n=notebook: words(
                plans.arguments(job_at(f"{w.base}/{n}/{w.run}"), OUTPUTS)
            ),
        threads: workflow.cores if notebook in TRAINS else max(1, (workflow.cores or 1) // 2)
        shell:
            PAPERMILL


rule compare:
    input:
        lambda w: manifests(with_data(w.plan)[0]),
    output:
        f"{{base}}/{{plan}}/{COMPARE}/manifest.json",
    log:
        f"{{base}}/{{plan}}/{COMPARE}/notebook.ipynb",
    params:
        notebook=COMPARE,
        key=lambda w: runs.key(COMPARE, w.plan, sorted(key_of(j) for j in with_data(w.plan)[0])),
        arguments=lambda w: words({"plan": w.plan, "outputs": str(OUTPUTS)}),
        report=f"{{base}}/{{plan}}/{COMPARE}/comparison.txt",
    shell:
        f"{PAPERMILL} && cat {{wildcards.base:q}}/{{wildcards.plan:q}}/{COMPARE}/comparison.txt"


rule no_data:
    output:
        "{base}/{plan}/no_data",
    params:
        lines=lambda w: "\n".join(f"no data: {f}: {r}" for f, r in with_data(w.plan)[1].items()),
    shell:
        "echo {params.lines:q}; exit 1"


onerror:
    for folder in known:
        path = files.resolve(folder)
        if (path / "notebook.ipynb").is_file() and not runs.is_complete(path):
            print(f"not complete: {folder} (its notebook.ipynb shows where it stopped)")
