"""Knowledge distillation: who teaches, and what a student learns from a teacher."""
