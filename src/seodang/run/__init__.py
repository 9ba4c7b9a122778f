"""The run folder: the only place that spells its file names; one writer, one reader."""
