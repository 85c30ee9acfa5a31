module github.com/twotier/twotier/services/ipvs-director

go 1.26
