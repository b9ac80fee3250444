"""One file per loader; the file name is what models.toml calls it. Each has `build(spec) -> Built`."""
