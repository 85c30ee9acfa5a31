module github.com/twotier/twotier/services/internal

go 1.26
