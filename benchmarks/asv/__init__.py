"""The asv suite: what must stay fast or exact between commits. asv imports every file here."""
