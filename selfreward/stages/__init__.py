"""The stages of the loop, one file each: functions from artifacts and settings to one artifact."""
