"""What people read of a run: `tables`, `figures`, the `site` of a report, `asv`, verdicts on `rates`, and `gates`."""
