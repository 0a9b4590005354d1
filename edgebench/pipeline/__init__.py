"""The main job: build on the host, measure on the target, judge."""
