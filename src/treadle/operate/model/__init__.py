"""A model directory that answers: loaded by its own library, queries made into what it takes."""
