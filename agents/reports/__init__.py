"""The HTML report: one page that shows what a run or a study did."""
