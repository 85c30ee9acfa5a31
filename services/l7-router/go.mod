module github.com/twotier/twotier/services/l7-router

go 1.26
