"""Lints a chart, and prints its manifests with the given values (JSON) as YAML."""

import json
import sys

from helm_python import Chart, lint

folder, values = sys.argv[1], json.loads(sys.argv[2])
with Chart.load(folder) as chart:
    manifests = chart.render(values=values, name="jobs", namespace="jobs")
print(json.dumps({"manifests": manifests, "lint": lint(folder, values=values)}))
