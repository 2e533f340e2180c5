"""Results as pictures: printed by matplotlib, interactive by plotly."""
