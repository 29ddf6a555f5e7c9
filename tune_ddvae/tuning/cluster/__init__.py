"""Ray on one machine or many: joined, measured, checked."""
