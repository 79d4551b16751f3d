"""What every network of one version of timm gives, as the census measured it: facts without torch and without timm."""

from composer.catalogue.answers import find_catalogue_info as find_catalogue_info
from composer.catalogue.answers import lookup as lookup
from composer.catalogue.entries import CATALOGUE as CATALOGUE
from composer.catalogue.entries import Entry as Entry
from composer.catalogue.entries import Level as Level
from composer.catalogue.entries import WeightsInfo as WeightsInfo
from composer.catalogue.entries import find_entry as find_entry
from composer.catalogue.entries import format_catalogue as format_catalogue
from composer.catalogue.entries import from_plain as from_plain
from composer.catalogue.entries import get_catalogue_version as get_catalogue_version
from composer.catalogue.entries import list_networks as list_networks
from composer.catalogue.entries import to_plain as to_plain
