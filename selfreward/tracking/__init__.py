"""Console, dashboard and report: mirrors of the manifests, never the truth."""
