"""Queue a workflow (API form), wait for it, fetch the generators it saved: SERVER WORKFLOW.json FOLDER"""

import json
import sys
import time
import uuid
from http.client import HTTPException
from pathlib import Path
from urllib import error, parse, request


def main(server: str, workflow: str, folder: str) -> None:
    body = {"prompt_id": str(uuid.uuid4()), "client_id": str(uuid.uuid4())}
    body["prompt"] = json.loads(Path(workflow).read_text(encoding="utf-8"))
    request.urlopen(request.Request(f"{server}/prompt", json.dumps(body).encode()))
    while not (found := json.load(request.urlopen(f"{server}/history/{body['prompt_id']}"))):
        time.sleep(1)
    run = found[body["prompt_id"]]
    if run["status"]["status_str"] != "success":
        sys.exit(json.dumps(run["status"]["messages"][-1]))
    Path(folder).mkdir(parents=True, exist_ok=True)
    for saved in [file for output in run["outputs"].values() for file in output.get("generators", [])]:
        answer = request.urlopen(f"{server}/view?{parse.urlencode(saved)}")
        (Path(folder) / Path(saved["filename"]).name).write_bytes(answer.read())


if len(sys.argv) != 4:
    sys.stderr.write("write: plain_client.py http://127.0.0.1:8188 WORKFLOW.json FOLDER\n")
    sys.exit(2)
try:
    main(sys.argv[1].rstrip("/"), *sys.argv[2:])
except error.HTTPError as refused:  # the answer names the node, the input and the reason
    sys.exit(refused.read().decode())
except (OSError, ValueError, HTTPException) as wrong:  # no such server or file, no address, no JSON
    sys.stderr.write(f"cannot run {sys.argv[2]} on {sys.argv[1]}: {getattr(wrong, 'reason', wrong)}\n")
    sys.exit(2)
