"""What SQLMesh calls production: the one environment whose views bear no suffix."""

PRODUCTION = "prod"
