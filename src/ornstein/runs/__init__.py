"""The run folder, and what is in it; where core, nets and data meet."""
